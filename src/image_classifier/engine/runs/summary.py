"""What the terminal shows at the end: final figures, per-class figures, most confused pairs."""

import math
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

from image_classifier.engine.confusion import matrix
from image_classifier.engine.runs.results import Results


def print_summary(run_dir: Path, results: Results, metrics: Mapping[str, float]) -> None:
    """Final figures, the most confused pairs, and where everything lies."""
    table = Table(title="Final figures", title_justify="left")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name in sorted(metrics, key=importance):
        value = metrics[name]
        shown = f"{value:.4f}" if isinstance(value, float) and math.isfinite(value) else str(value)
        add_row(table, name, shown)
    console = Console()
    console.print(table)
    counts = results.final_counts()
    if counts is not None and matrix.most_confused(counts, results.class_names, limit=1):
        console.print(confused_table(counts, results.class_names, limit=5))
    console.print(f"Run directory: {run_dir}", soft_wrap=True, highlight=False, markup=False, emoji=False)


def importance(name: str) -> tuple[int, int]:
    """What a figure is sorted by: those of the test first, and accuracy before loss before the rest."""
    stage, _, figure = name.partition("/")
    stages, figures = ("test", "val", "train"), ("acc", "loss")
    return (
        stages.index(stage) if stage in stages else len(stages),
        figures.index(figure) if figure in figures else len(figures),
    )


def add_row(table: Table, *cells: str) -> None:
    """Add a row whose names mean what they say: rich would take "[red]" for a colour and ":cat:" for a picture."""
    table.add_row(*(Text(cell) for cell in cells))


def print_class_report(results: Results) -> None:
    """Precision, recall, F1 and support of each class of the test."""
    counts = results.final_counts()
    if counts is None:
        return
    figures = matrix.class_metrics(counts)
    table = Table(title="Per class", title_justify="left")
    table.add_column("class")
    for heading in ("precision", "recall", "f1", "support"):
        table.add_column(heading, justify="right")
    for index, name in enumerate(results.class_names):
        values = [f"{getattr(figures, figure)[index]:.4f}" for figure in ("precision", "recall", "f1")]
        add_row(table, name, *values, str(int(figures.support[index])))
    Console().print(table)


def confused_table(counts: Tensor, class_names: tuple[str, ...], limit: int) -> Table:
    table = Table(title="Most confused", title_justify="left")
    for heading in ("true class", "taken for"):
        table.add_column(heading)
    for heading in ("count", "share of the true class"):
        table.add_column(heading, justify="right")
    for pair in matrix.most_confused(counts, class_names, limit):
        add_row(table, pair.true, pair.predicted, str(pair.samples), f"{pair.share:.1%}")
    return table
