"""Whether the metrics that a run is to be judged by are logged at all: told before the training where it can be known.

Code of yours may log whatever it wants. A name is refused here only where everything that could log it is of this
project, and the files in front, which are there to be edited, do not have its last word anywhere.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from image_classifier.engine.errors import UserError
from image_classifier.engine.settings import value_at

ROOT = Path(__file__).parents[2]  # of the package
ALWAYS = ("acc", "loss", "balanced_acc", "macro_f1", "weighted_f1")  # of each stage
LIBRARIES = (f"{__name__.partition('.')[0]}.", "pytorch_lightning.", "torch.", "torchmetrics.")  # log nothing of theirs
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
        if stage in STAGES and not may_be_logged(rest, settings):
            known = ", ".join(f"{stage}/{word}" for word in (*ALWAYS, *(settings.get("metrics") or {})))
            raise UserError(f"expected {setting} to be a metric that is logged, such as {known}, but found {name}")


def monitored_metrics(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Settings and the metrics that they name."""
    for setting in ("monitor.metric", *(f"callbacks.{name}.monitor" for name in settings.get("callbacks") or {})):
        if isinstance(name := value_at(settings, setting), str):
            yield setting, name
    for name in settings.get("objectives") or {}:
        yield "objectives", name


def may_be_logged(name: str, settings: Mapping[str, Any]) -> bool:
    """Whether a metric, without its stage, is known, or may be logged by code that is not."""
    first, last = name.split("/")[0], name.split("/")[-1]
    if first in ALWAYS or first in (settings.get("metrics") or {}):
        return True
    logging = ("model", *(f"callbacks.{name}" for name in settings.get("callbacks") or {}))
    targets = [value_at(settings, f"{part}._target_") for part in logging]
    if any(isinstance(target, str) and not target.startswith(LIBRARIES) for target in targets):
        return True
    word = re.compile(rf"\b{re.escape(last)}\b")
    return bool(last) and any(word.search(text) for text in front_sources())


def front_sources() -> Iterator[str]:
    for path in ROOT.rglob("*.py"):
        if path.relative_to(ROOT).parts[0] != "engine":
            yield path.read_text()
