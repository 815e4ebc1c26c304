"""What the terminal shows at the end: final figures, per-class figures, most confused pairs."""

import math
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from image_classifier.engine.confusion import matrix
from image_classifier.engine.runs.results import Results
from image_classifier.engine.terminal import say
from image_classifier.engine.terminal_tables import Table, console


def print_summary(run_dir: Path, results: Results, metrics: Mapping[str, float]) -> None:
    """Final figures, the most confused pairs, and where everything lies."""
    table = Table("Final figures", ["figure"], numbers=["value"])
    for name in sorted(metrics, key=importance):
        value = metrics[name]
        shown = f"{value:.4f}" if isinstance(value, float) and math.isfinite(value) else str(value)
        table.add_row(name, shown)
    console().print(table)
    counts = results.final_counts()
    if counts is not None and matrix.most_confused(counts, results.class_names, limit=1):
        console().print(confused_table(counts, results.class_names, limit=5))
    say(f"Run directory: {run_dir}")


def importance(name: str) -> tuple[int, int]:
    """What a figure is sorted by: those of the test first, and accuracy before loss before the rest."""
    stage, _, figure = name.partition("/")
    stages, figures = ("test", "val", "train"), ("acc", "loss")
    return (
        stages.index(stage) if stage in stages else len(stages),
        figures.index(figure) if figure in figures else len(figures),
    )


def print_class_report(results: Results) -> None:
    """Precision, recall, F1 and support of each class of the test."""
    counts = results.final_counts()
    if counts is None:
        return
    figures = matrix.class_metrics(counts)
    table = Table("Per class", ["class"], numbers=["precision", "recall", "f1", "support"])
    for index, name in enumerate(results.class_names):
        values = [f"{getattr(figures, figure)[index]:.4f}" for figure in ("precision", "recall", "f1")]
        table.add_row(name, *values, int(figures.support[index]))
    console().print(table)


def confused_table(counts: Tensor, class_names: tuple[str, ...], limit: int) -> Table:
    table = Table("Most confused", ["true class", "taken for"], numbers=["count", "share of the true class"])
    for pair in matrix.most_confused(counts, class_names, limit):
        table.add_row(pair.true, pair.predicted, pair.samples, f"{pair.share:.1%}")
    return table
