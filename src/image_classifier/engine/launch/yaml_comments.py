"""What the comments in configuration files say of options and of settings: the help shows it."""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
SHARED = re.compile(r"What all .* share")  # says that a file is a part of others and no option
PACKAGE = re.compile(r"@package (\S+)")


class ConfigFile(NamedTuple):
    """A configuration file as its reader sees it."""

    heading: str  # the comment that it begins with
    package: str | None  # where its settings go, if it says so
    defaults: tuple[Any, ...]
    comments: Mapping[str, str]  # by dotted key


def option_files(config_dir: Path, group: str) -> dict[str, Path]:
    """The files of a group that can be chosen, by name."""
    paths = sorted((config_dir / group).glob("*.yaml"))
    return {path.stem: path for path in paths if not SHARED.match(read_config_file(path).heading)}


def groups(config_dir: Path) -> list[str]:
    """All groups, also those inside of others: `model`, `model/optimizer`."""
    return sorted({path.parent.relative_to(config_dir).as_posix() for path in config_dir.glob("*/**/*.yaml")})


def comments(config_dir: Path, config_name: str, choices: Mapping[str, Any]) -> dict[str, str]:
    """The comments on all settings of a composed configuration.

    Args:
        config_dir: Where the files lie.
        config_name: The primary one.
        choices: Option by group, as Hydra reports them; a group may be followed by `@` and a package.

    Returns:
        Comment by dotted key. A file that changes a setting without a comment leaves the one of the file before.
    """
    found: dict[str, str] = {}
    for key, option in choices.items():
        group, _, package = key.partition("@")
        for name in option if isinstance(option, Sequence) and not isinstance(option, str) else [option]:
            found |= comments_of_option(config_dir, group, str(name), package or group.replace("/", "."))
    return found | dict(read_config_file(config_dir / f"{config_name}.yaml").comments)


def comments_of_option(config_dir: Path, group: str, option: str, package: str) -> dict[str, str]:
    path = config_dir / group / f"{option}.yaml"
    if not path.is_file():
        return {}
    file = read_config_file(path)
    package = package if file.package is None else file.package.replace("_global_", "")
    found: dict[str, str] = {}
    for base in file.defaults:
        if isinstance(base, str) and base != "_self_":
            found |= comments_of_option(config_dir, group, base, package)
    prefix = package and f"{package}."
    return found | {prefix + key: comment for key, comment in file.comments.items()}


@lru_cache(maxsize=200)
def read_config_file(path: Path) -> ConfigFile:
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    heading, package = [], None
    for line in lines:
        if not line.startswith("#"):
            break
        comment = line.lstrip("# ").strip()
        if match := PACKAGE.match(comment):
            package = match[1]
        else:
            heading.append(comment)
    loader = LOADER(text)
    root = loader.get_single_node()
    if not isinstance(root, yaml.MappingNode):
        return ConfigFile(" ".join(heading), package, (), {})
    defaults = next((value for key, value in root.value if key.value == "defaults"), None)
    plain = loader.construct_object(defaults, deep=True) if defaults is not None else []
    first = len(heading) + (package is not None)
    return ConfigFile(" ".join(heading), package, tuple(plain), dict(node_comments(root, lines, "", first)))


def node_comments(node: yaml.MappingNode, lines: Sequence[str], prefix: str, first: int) -> Iterator[tuple[str, str]]:
    """Key and comment of the settings in a mapping: behind the value, else in the lines above the key.

    Args:
        node: The mapping.
        lines: Those of the file.
        prefix: Of its keys.
        first: Line below the heading, which is no comment on the first key.
    """
    for key, value in node.value:
        line = key.start_mark.line
        begins_below = isinstance(value, yaml.MappingNode) and value.start_mark.line > line
        end = key.end_mark if begins_below else value.end_mark
        behind = re.search(r"(?:^|\s)#\s*(.*)", lines[end.line][end.column :] if end.line < len(lines) else "")
        above = line
        while above > first and lines[above - 1].lstrip().startswith("#"):
            above -= 1
        if comment := behind[1] if behind else " ".join(text.lstrip("# ") for text in lines[above:line]):
            yield prefix + key.value, comment.strip()
        if isinstance(value, yaml.MappingNode):
            yield from node_comments(value, lines, f"{prefix}{key.value}.", first)
