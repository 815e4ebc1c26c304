"""Whether the metrics that a run is to be judged by are logged at all: told before the training where it can be known.

Code of yours may log whatever it wants. A name is refused here only where everything that could log it is of this
project, and the files in front, which are there to be edited, do not have its last word anywhere.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from image_classifier.engine.errors import UserError
from image_classifier.engine.project import CONFIG_DIR
from image_classifier.engine.settings import value_at

PACKAGE = __name__.partition(".")[0]
ROOT = Path(__file__).parents[2]  # of the package
ALWAYS = ("acc", "loss", "balanced_acc", "macro_f1", "weighted_f1")  # of each stage
BY_CALLBACKS = ("ece", "loss_step")  # of some
LIBRARIES = (f"{PACKAGE}.", "pytorch_lightning.", "torch.", "torchmetrics.")  # log nothing of theirs
STAGES = ("train", "val", "test")


def check_monitored(settings: Mapping[str, Any]) -> None:
    """Refuse names of metrics that nobody logs.

    Raises:
        UserError: One of them is monitored, or an objective of a sweep.
    """
    if not settings.get("train", True) or settings.get("ckpt_path"):  # whose metrics may be those of the checkpoint
        return
    for setting, name in monitored_metrics(settings):
        stage, _, rest = name.partition("/")
        if stage in STAGES and not may_be_logged(rest, stage, settings):
            known = ", ".join(f"{stage}/{word}" for word in (*ALWAYS, *(settings.get("metrics") or {})))
            raise UserError(
                f"expected {setting} to be a metric that is logged, such as {known}, but found {name}"
                f"{cure(rest, stage, settings)}"
            )


def monitored_metrics(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Settings and the metrics that they name."""
    for setting in ("monitor.metric", *(f"callbacks.{name}.monitor" for name in settings.get("callbacks") or {})):
        if isinstance(name := value_at(settings, setting), str):
            yield setting, name
    for name in settings.get("objectives") or {}:
        yield "objectives", name


def may_be_logged(name: str, stage: str, settings: Mapping[str, Any]) -> bool:
    """Whether a metric, without its stage, is known, or may be logged by code that is not."""
    first = name.split("/")[0]
    if first in ALWAYS or first in (settings.get("metrics") or {}):
        return True
    logging = (value_at(settings, "model._target_"), *(part.get("_target_") for part in callbacks(settings).values()))
    if any(isinstance(target, str) and not target.startswith(LIBRARIES) for target in logging):
        return True
    return any(may_log(path, stage, settings) for path in front_files(name))


def may_log(path: Path, stage: str, settings: Mapping[str, Any]) -> bool:
    """Whether what stands in a file in front may be called in a stage: a callback in the stages that it is given."""
    module = ".".join((PACKAGE, *path.relative_to(ROOT).with_suffix("").parts))
    made = [part for part in callbacks(settings).values() if is_of(part, module)]
    callback = path.parent == ROOT / "callbacks" and (made or is_chosen_by_files(module))
    if not callback or any(other != path for other in front_files(module)):
        return True  # by whatever imports it
    return any(stage in (part.get("stages") or STAGES) for part in made)


def cure(name: str, stage: str, settings: Mapping[str, Any]) -> str:
    """What to type where a callback logs a metric in other stages only."""
    modules = [".".join((PACKAGE, *path.relative_to(ROOT).with_suffix("").parts)) for path in front_files(name)]
    for key, part in callbacks(settings).items():
        if any(is_of(part, module) for module in modules) and isinstance(part.get("stages"), list):
            return f"; type '{key}.stages=[{','.join((stage, *part['stages']))}]'"
    return ""


def callbacks(settings: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Their settings by dotted key."""
    parts = {f"callbacks.{name}": part for name, part in (settings.get("callbacks") or {}).items()}
    parts["confusion_matrix"] = settings.get("confusion_matrix")
    return {key: part for key, part in parts.items() if isinstance(part, Mapping)}


def is_of(part: Mapping[str, Any], module: str) -> bool:
    return str(part.get("_target_")).startswith(f"{module}.")


def is_chosen_by_files(module: str) -> bool:
    return any(f"_target_: {module}." in path.read_text() for path in Path(CONFIG_DIR).rglob("*.yaml"))


def front_files(name: str) -> Iterator[Path]:
    """The files in front that have a word in them: the last part of a metric's name, or a module."""
    last = name.split("/")[-1]
    word = re.compile(rf"\b{re.escape(last)}\b")
    for path in ROOT.rglob("*.py"):
        if last and path.relative_to(ROOT).parts[0] != "engine" and word.search(path.read_text()):
            yield path
