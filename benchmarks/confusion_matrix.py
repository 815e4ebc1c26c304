"""What the confusion matrix costs: drawing, counting, and the whole callback in a default epoch.

python benchmarks/confusion_matrix.py
"""

from common import Row, alternate, ratio, seconds, write_results

# isort: split
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any
from unittest.mock import patch

import torch
from hydra import compose, initialize_config_dir
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from image_classifier import pipeline
from image_classifier.callbacks.confusion_matrix import ConfusionMatrixCallback
from image_classifier.engine.confusion.counts import ConfusionCounts
from image_classifier.engine.figures.confusion_matrix import draw_confusion_matrix, to_array
from image_classifier.engine.launch.configuration import CONFIG_DIR  # and registers the resolvers

BATCH = 512
UPDATES = 500  # updates in one measurement: a single one is too short for the clock
PAIRS = 21
EPOCHS = 3


def example_counts(classes: int) -> Tensor:
    """A (K, K) matrix of a classifier that is right nine times in ten, about 100 samples a class."""
    generator = torch.Generator().manual_seed(1)
    true = torch.randint(classes, (100 * classes,), generator=generator)
    wrong = torch.randint(classes, true.shape, generator=generator)
    predicted = torch.where(torch.rand(true.shape, generator=generator) < 0.9, true, wrong)
    return torch.bincount(true * classes + predicted, minlength=classes**2).view(classes, classes)


def draw(counts: Tensor) -> None:
    draw_confusion_matrix(counts, [f"class {index}" for index in range(len(counts))], title="val, epoch 1")


def draw_with_torchmetrics(counts: Tensor) -> None:
    metric = MulticlassConfusionMatrix(len(counts))
    metric.confmat = counts
    metric._update_count = 1
    figure = Figure()
    FigureCanvasAgg(figure)
    metric.plot(ax=figure.add_subplot(), labels=[f"class {index}" for index in range(len(counts))])
    to_array(figure)


def compare_drawing() -> list[Row]:
    rows = []
    for classes, target in ((2, None), (10, 0.2), (25, None), (100, None), (1000, 0.5)):
        counts = example_counts(classes)
        draw(counts)
        times = [seconds(lambda counts=counts: draw(counts)) for _ in range(PAIRS)]
        question = f"drawing and rendering {classes} classes"
        rows.append(Row(question, statistics.median(times), "s", target, samples=PAIRS))
    for classes, target, pairs in ((10, None, 3), (100, 50, 2)):
        counts = example_counts(classes)
        value, note = alternate(
            lambda counts=counts: draw_with_torchmetrics(counts), lambda counts=counts: draw(counts), pairs
        )
        question = f"drawing {classes} classes: torchmetrics' plot with text takes longer"
        rows.append(Row(question, value, "x", target, at_most=False, samples=pairs, note=note))
    return rows


def repeat(update: Callable[[], object]) -> Callable[[], None]:
    def many() -> None:
        with torch.inference_mode():
            for _ in range(UPDATES):
                update()

    return many


def compare_counting(classes: int) -> list[Row]:
    generator = torch.Generator().manual_seed(1)
    true, predicted = torch.randint(classes, (2, BATCH), generator=generator)
    logits = torch.randn(BATCH, classes, generator=generator)
    ours = ConfusionCounts(classes)
    theirs = MulticlassConfusionMatrix(classes, validate_args=False)
    bare = torch.zeros(classes**2, dtype=torch.int64)
    ones = torch.ones(BATCH, dtype=torch.int64)
    update = repeat(lambda: ours.update(predicted, true))
    baselines: tuple[tuple[str, Callable[[], object], float | None], ...] = (
        ("a bare index_add_", lambda: bare.index_add_(0, true * classes + predicted, ones), 2),
        ("torchmetrics on classes", lambda: theirs.update(predicted, true), None),
        ("torchmetrics on logits", lambda: theirs.update(logits, true), None),
    )
    rows = []
    for name, baseline, target in baselines:
        pairs = PAIRS if target else 3
        value, note = alternate(update, repeat(baseline), pairs)
        question = f"counting a batch of {BATCH}, {classes} classes, against {name}"
        rows.append(Row(question, value, "x", target, samples=pairs, note=f"{UPDATES} batches: {note}"))
    return rows


class TimedHooks:
    """Adds up what the hooks of the callback take, epoch by epoch."""

    HOOKS = ("on_validation_epoch_start", "on_validation_batch_end", "on_validation_epoch_end", "on_validation_end")

    def __init__(self) -> None:
        self.spent = [0.0]
        self.ends = [time.perf_counter()]

    def timed(self, name: str) -> Callable[..., None]:
        hook = getattr(ConfusionMatrixCallback, name)

        def call(*args: Any) -> None:
            self.spent[-1] += seconds(lambda: hook(*args))
            if name == "on_validation_end":
                self.ends.append(time.perf_counter())
                self.spent.append(0.0)

        return call

    def epochs(self) -> list[tuple[float, float]]:
        """(seconds in the callback, seconds in all) of each epoch but the first, which warms up."""
        lengths = [end - start for start, end in pairwise(self.ends)]
        return list(zip(self.spent, lengths, strict=False))[1:]


def measure_callback() -> list[Row]:
    """The share of the callback in the epochs of the default experiment."""
    hooks = TimedHooks()
    with tempfile.TemporaryDirectory() as run_dir, initialize_config_dir(CONFIG_DIR):
        overrides = (f"trainer.max_epochs={EPOCHS}", "callbacks.progress_bar=null", "test=false")
        cfg = compose("train", overrides=[f"paths.run_dir={run_dir}", *overrides])
        replaced = {name: hooks.timed(name) for name in TimedHooks.HOOKS}
        with patch.multiple(ConfusionMatrixCallback, **replaced):
            pipeline.train(cfg)
    share, note = ratio(hooks.epochs())
    return [
        Row("the callback in an epoch of the default experiment", 100 * share, "%", 1, samples=EPOCHS - 1, note=note)
    ]


def main() -> list[Row]:
    rows = compare_drawing()
    for classes in (10, 1000):
        rows += compare_counting(classes)
    rows += measure_callback()
    write_results("confusion_matrix", rows)
    return rows


if __name__ == "__main__":
    main()
