"""Overrides that come out of the files of a run, which may be somebody else's: they are held to a list, as checkpoints.

What is typed is the user's own and may name code. What a directory brings along may choose among what is here, set
values, and name the classes that a checkpoint may name, and callbacks, loggers and the like. It may not call anything
else, not read the environment, not change Hydra, and not name places to write to outside of the run and the project.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.types import ListExtensionOverrideValue, Override
from hydra.errors import HydraException

from image_classifier.engine.errors import UserError
from image_classifier.engine.launch.signatures import Source
from image_classifier.engine.overrides import PARSER
from image_classifier.engine.project import CONFIG_DIR, PROJECT_ROOT
from image_classifier.engine.secrets import is_secret, unquoted
from image_classifier.engine.terminal import shell_quoted

PACKAGE = __name__.partition(".")[0]
ROOT = Path(__file__).parents[2]  # of the package
ROOMS = ("callbacks", "data", "models")  # what is defined there is to be named
# What loads code, or objects that are code: it is named by full names in `trusted`, or not at all.
LOADERS = re.compile(
    r"torch\.(hub|load|jit|package|ops|classes|serialization|export|utils\.(cpp_extension|model_zoo))\b"
)
KEY = re.compile(r"\w[\w\-]*(?:[./][\w\-]+|\[\d+\])*")
OPTION = re.compile(r"[\w\-]+(?:\.[\w\-]+)*(?:/[\w\-]+(?:\.[\w\-]+)*)*")  # within the folder of its group
INTERPOLATION = re.compile(r"\$\{(?:[\w.\-]+|project_root:)\}(?:/[^$]*)?")  # of another setting, or of a place in it
VARIABLE = re.compile(r"\$\{oc\.env:\w+\}")  # for settings that are named like secrets
PATH = re.compile(r"(?:(?!https?:)[\w+.\-]+:)?(?:/|~)|(?:.*/)?\.\.(?:/|$)", re.DOTALL)
NO_PATH = re.compile(rf"(?!{PATH.pattern}).*", re.DOTALL)
PLACES = re.compile(r"(?:.*_)?(?:dir|store|uri)|dirpath|output")  # settings that name where to write
READ = ("data", "paths.data_dir", "model.init_from")  # where pictures and weights lie


def check_overrides(texts: Sequence[str], directory: Path) -> None:
    """Look at overrides that were found in the files of a run.

    Args:
        texts: Without those that were typed again.
        directory: Of the run.

    Raises:
        UserError: One of them does what only what is typed may do.
    """
    for text in texts:
        try:
            override = PARSER.parse_override(text)
        except HydraException:
            raise refused(text, directory, "an override") from None
        if text.startswith("-") or override.is_sweep_override():
            raise refused(text, directory, "an override with one value")
        if expected := fault(override, directory):
            raise refused(text, directory, expected)


def refused(text: str, directory: Path, expected: str) -> UserError:
    return UserError(
        f"expected {expected} but found {text} in {directory}/.hydra/overrides.yaml, which may be somebody else's; if "
        f"you trust it, type it again: {shell_quoted(text)}"
    )


def fault(override: Override, directory: Path) -> str:
    """What an override should have been instead; empty where it may be used."""
    key = override.key_or_group
    for name in (key, override.package or key):
        if not KEY.fullmatch(name) or re.split(r"[./\[]", name)[0] in ("hydra", "trusted", "local"):
            return "a setting of the run"
    value = override.value()
    if isinstance(value, ListExtensionOverrideValue):
        value = value.values
    value = unquoted(value)
    if "." not in key or "/" in key:  # it may choose files
        form = OPTION if "/" in key or Path(CONFIG_DIR, key).is_dir() else NO_PATH
        chosen = value if isinstance(value, list) else [value]
        if not all(form.fullmatch(option) for option in chosen if isinstance(option, str)):
            return "one of the options of this project"
    for path, node in nodes(value, key):
        if expected := fault_of_value(path, node, directory):
            return expected
    return ""


def nodes(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """All values in nested containers with their dotted keys, and the keys of dictionaries as values of their own."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield f"{path}.(key)", name
            yield from nodes(inner, f"{path}.{name}")
    elif isinstance(value, list):
        for inner in value:
            yield from nodes(inner, path)
    if not isinstance(value, list):
        yield path, value


def fault_of_value(key: str, value: Any, directory: Path) -> str:
    name = key.rpartition(".")[2]
    if value == "_execution_whitelist_" or name == "_execution_whitelist_":
        return "a setting of the run"
    if name == "_target_":
        return "" if isinstance(value, str) and may_be_named(value) else "a class that a run's files may name"
    if not isinstance(value, str):
        return ""
    if "${" in value and not INTERPOLATION.fullmatch(value):
        return "" if VARIABLE.fullmatch(value) and is_secret(key) else "a value that reads nothing from elsewhere"
    place = PLACES.fullmatch(name) is not None and not re.match(r"\$\{|https?:", value)
    if (place or PATH.match(value)) and not within(key, READ) and not is_place_of(value, key, directory):
        return "a place within the run or the project"
    return ""


def within(key: str, prefixes: tuple[str, ...]) -> bool:
    return any(key == prefix or key.startswith(f"{prefix}.") for prefix in prefixes)


def is_place_of(value: str, key: str, directory: Path) -> bool:
    if "${" in value:
        return False
    path = Path(value).expanduser().resolve() if ":" not in value.partition("/")[0] else Path("/")
    run = directory.resolve()
    ours = any(path.is_relative_to(root) for root in (run, PROJECT_ROOT.resolve()))
    return ours or (key == "paths.output_dir" and run.is_relative_to(path))  # it is no longer asked


def may_be_named(target: str) -> bool:
    if target in trusted_by_the_user():
        return True
    if LOADERS.match(target):
        return False
    return target in named_in_configs() or is_defined_in_front(target) or target in of_the_libraries()


def trusted_by_the_user() -> frozenset[str]:
    """The full names in `trusted`, of the files in configs/."""
    files = (Path(CONFIG_DIR, group, "default.yaml") for group in ("trusted", "local"))
    contents = [yaml.safe_load(file.read_text()) or {} for file in files if file.is_file()]
    return frozenset(name for content in contents for name in content.get("trusted") or () if isinstance(name, str))


def named_in_configs() -> frozenset[str]:
    found = re.compile(r"^[^#\n]*_target_: *([\w.]+)", re.MULTILINE)
    files = (file for file in Path(CONFIG_DIR).rglob("*.yaml") if file.relative_to(CONFIG_DIR).parts[0] != "hydra")
    return frozenset(name for file in files for name in found.findall(file.read_text()))


def is_defined_in_front(target: str) -> bool:
    """Whether it is a class or function of one of the rooms in front, defined there: not one that is imported there."""
    module, _, name = target.rpartition(".")
    package, *parts = module.split(".")
    if package != PACKAGE or len(parts) < 2 or parts[0] not in ROOMS or not all(part.isidentifier() for part in parts):
        return False
    path = ROOT.joinpath(*parts).with_suffix(".py")
    return path.is_file() and Source(path).definition(name) is not None


def of_the_libraries() -> frozenset[str]:
    """What a checkpoint may name, and Lightning's callbacks, loggers, profilers and strategies."""
    import pytorch_lightning as pl  # here and below: most runs name nothing that has to be looked up there
    from pytorch_lightning import callbacks, loggers, profilers, strategies

    from image_classifier.engine.checkpoint import allowed_targets

    of_lightning = {
        f"{module.__name__}.{name}"
        for module, base in (
            (callbacks, pl.Callback),
            (loggers, loggers.Logger),
            (profilers, profilers.Profiler),
            (strategies, strategies.Strategy),
        )
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, base)
    }
    return allowed_targets() | of_lightning
