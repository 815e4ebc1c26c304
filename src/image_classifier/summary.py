"""What the terminal shows at the end: final figures, per-class figures, most confused pairs."""

import math
from pathlib import Path

import pytorch_lightning as pl
from rich.console import Console
from rich.table import Table
from torch import Tensor

from image_classifier.callbacks.confusion_matrix import ConfusionMatrixCallback
from image_classifier.confusion import matrix


def print_summary(run_dir: Path, trainer: pl.Trainer, metrics: dict[str, float]) -> None:
    """Final figures, the most confused pairs, and where everything lies."""
    table = Table(title="Final figures", title_justify="left")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name, value in metrics.items():
        shown = f"{value:.4f}" if isinstance(value, float) and math.isfinite(value) else str(value)
        table.add_row(name, shown)
    console = Console()
    console.print(table)
    found = final_counts(trainer)
    if found is not None and matrix.most_confused(*found, limit=1):
        console.print(confused_table(*found, limit=5))
    console.print(f"Run directory: {run_dir}", soft_wrap=True, highlight=False)


def print_class_report(trainer: pl.Trainer) -> None:
    """Precision, recall, F1 and support of each class of the test."""
    found = final_counts(trainer)
    if found is None:
        return
    counts, class_names = found
    figures = matrix.class_metrics(counts)
    table = Table(title="Per class", title_justify="left")
    table.add_column("class")
    for heading in ("precision", "recall", "f1", "support"):
        table.add_column(heading, justify="right")
    for index, name in enumerate(class_names):
        values = [f"{getattr(figures, figure)[index]:.4f}" for figure in ("precision", "recall", "f1")]
        table.add_row(name, *values, str(int(figures.support[index])))
    Console().print(table)


def confused_table(counts: Tensor, class_names: tuple[str, ...], limit: int) -> Table:
    table = Table(title="Most confused", title_justify="left")
    for heading in ("true class", "taken for"):
        table.add_column(heading)
    for heading in ("count", "share of the true class"):
        table.add_column(heading, justify="right")
    for pair in matrix.most_confused(counts, class_names, limit):
        table.add_row(pair.true, pair.predicted, str(pair.samples), f"{pair.share:.1%}")
    return table


def final_counts(trainer: pl.Trainer) -> tuple[Tensor, tuple[str, ...]] | None:
    """The test counts, or else the last validation counts, with the class names."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, ConfusionMatrixCallback) and callback.matrices:
            counts = callback.matrices.get("test", callback.matrices.get("val"))
            assert counts is not None
            return counts, callback.class_names
    return None
