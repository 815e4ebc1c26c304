"""`--help`: the groups with what each option is, then all settings as they would be typed, with their comments."""

import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import hydra
from hydra import initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from image_classifier.engine.launch.choices import CHOICE, split_options
from image_classifier.engine.launch.yaml_comments import comments, groups, option_files, read_config_file
from image_classifier.engine.overrides import written
from image_classifier.engine.project import CONFIG_DIR
from image_classifier.engine.terminal import printable

NO_CHOICES = ("hydra", "paths", "trusted", "local")  # one option each, or Hydra's own
COLUMN = 42  # where comments begin


class Style(NamedTuple):
    """Escape sequences of a terminal; empty elsewhere."""

    heading: str = ""
    name: str = ""
    chosen: str = ""
    comment: str = ""
    end: str = ""


COLORS = Style("\033[1m", "\033[36m", "\033[1;32m", "\033[2m", "\033[0m")


def print_help(config_name: str, arguments: Sequence[str]) -> None:
    """Print the help of a command.

    Args:
        config_name: Its primary configuration.
        arguments: What was typed with `--help`: the settings are those of the groups that were chosen.
    """
    in_terminal = sys.stdout.isatty()
    style = COLORS if in_terminal and not os.environ.get("NO_COLOR") else Style()
    width = shutil.get_terminal_size().columns if in_terminal else None
    overrides = [argument for argument in arguments if not argument.startswith("-")]
    with initialize_config_dir(CONFIG_DIR):
        cfg = hydra.compose(config_name, overrides=overrides, return_hydra_config=True)
    choices = dict(cfg.hydra.runtime.choices) | several_options(overrides)
    del cfg.hydra
    try:
        print("\n".join(help_lines(Path(CONFIG_DIR), config_name, cfg, choices, style, width)), flush=True)  # noqa: T201  # `paint` has made its parts printable
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def several_options(overrides: Sequence[str]) -> dict[str, list[str]]:
    """The options of groups of which several were chosen: Hydra does not report these."""
    typed = filter(None, (CHOICE.fullmatch(override.lstrip("+")) for override in overrides))
    return {match["group"]: split_options(match["options"]) for match in typed if match["options"].startswith("[")}


def help_lines(
    config_dir: Path, config_name: str, cfg: DictConfig, choices: Mapping[str, Any], style: Style, width: int | None
) -> Iterator[str]:
    """All lines of the help.

    Args:
        config_dir: Where the configuration lies.
        config_name: The primary one.
        cfg: It composed, without Hydra's own part.
        choices: Option by group.
        style: Colours.
        width: Columns of the terminal; None for lines of any length.
    """

    def line(*parts: tuple[str, str]) -> str:
        return paint(parts, style.end, width)

    command = f"python {config_name}.py"
    yield line((style.heading, f"{command} [GROUP=OPTION ...] [SETTING=VALUE ...]"))
    yield line(("", read_config_file(config_dir / f"{config_name}.yaml").heading))
    offered = offered_groups(config_dir, config_name, choices)
    if offered:
        yield ""
        yield line((style.heading, "GROUPS"), ("", "  those chosen have a star; several: logger=[tensorboard,csv]"))
    for group in offered:
        yield line((style.name, f"  {group}="))
        for name, text, is_chosen in described_options(config_dir, group, choices.get(group)):
            star, color = ("*", style.chosen) if is_chosen else (" ", style.name)
            yield line(("", f"  {star} "), (color, f"{name:22}  "), ("", text))
    yield ""
    yield line((style.heading, "SETTINGS"), ("", "  of the chosen options; in a YAML file, each dot is a level"))
    found = comments(config_dir, config_name, choices)
    for key, value in settings(OmegaConf.to_container(cfg)):
        if value is ... and "." not in key:
            yield ""
        if value is not ...:
            yield line((style.name, f"  {f'{key}={written(value)}':{COLUMN}}  "), (style.comment, found.get(key, "")))
        elif key in found:
            yield line((style.heading, f"  {key:{COLUMN}}  "), (style.comment, found[key]))
    yield ""
    yield line((style.heading, "MORE"))
    for typed, meaning in footer(command):
        yield line((style.name, f"  {typed:{COLUMN}}  "), ("", meaning))


def paint(parts: Iterable[tuple[str, str]], end: str, width: int | None) -> str:
    """A line of coloured parts, cut off with an ellipsis where the terminal ends."""
    parts = [(color, printable(text)) for color, text in parts]
    text = "".join(text for _, text in parts).rstrip()
    room = len(text) if width is None or len(text) <= width else width - 1
    painted = ""
    for color, part in parts:
        shown = part[:room]
        room -= len(shown)
        painted += f"{color}{shown}{end}" if color else shown
    return painted if width is None or len(text) <= width else f"{painted}…"


def offered_groups(config_dir: Path, config_name: str, choices: Mapping[str, Any]) -> list[str]:
    """The groups that a command has: as its file names them, each followed by the groups inside, and by others' own."""
    named = [key for entry in read_config_file(config_dir / f"{config_name}.yaml").defaults for key in named_in(entry)]
    known = [group for group in groups(config_dir) if group.partition("/")[0] not in NO_CHOICES]
    ordered = []
    for group in named:
        ordered += [other for other in known if other == group or (other.startswith(f"{group}/") and other in choices)]
    for group in tuple(ordered):
        for path in option_files(config_dir, group).values():
            for entry in read_config_file(path).defaults:  # such as pruning, which sweeps have
                ordered += [name for name in named_in(entry) if name in known and name not in ordered]
    return ordered


def named_in(entry: Any) -> list[str]:
    """The group that an entry of a defaults list brings in; none when it changes the option of another's."""
    names = list(entry) if isinstance(entry, Mapping) else []
    return [name.removeprefix("optional ").lstrip("/") for name in names if not name.startswith("override ")]


def described_options(config_dir: Path, group: str, chosen: Any) -> Iterator[tuple[str, str, bool]]:
    """Name and first sentence of the options of a group, and whether they are chosen."""
    names = chosen if isinstance(chosen, list) else [chosen]
    for name, path in option_files(config_dir, group).items():
        yield name, first_sentence(read_config_file(path).heading), name in names


def first_sentence(text: str) -> str:
    return re.split(r"(?<=[.;?!])\s", text, maxsplit=1)[0].rstrip(".;")


def settings(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of nested settings; a mapping comes before what is in it, with `...` for its value."""
    for key, value in node.items():
        if key in ("_partial_", "command"):
            continue
        if isinstance(value, dict) and value:
            yield f"{prefix}{key}", ...
            yield from settings(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def footer(command: str) -> Iterator[tuple[str, str]]:
    yield f"{command} --cfg job --resolve", "the whole configuration as YAML, without running it"
    yield f'eval "$({command} -sc install=bash)"', "completion by Tab; zsh and fish: docs/faq.md"
    if command == "python train.py":
        yield f"{command} model=mlp --help", "the settings of other options"
        yield f"{command} -m model=mlp,cnn seed=1,2", "a job for each combination (docs/sweeps.md)"
