"""Show side by side what differs between runs: settings, metrics, matrices and, of two, the pictures one gets right.

python scripts/compare_runs.py outputs/train/RUN outputs/train/RUN
python scripts/compare_runs.py outputs/sweep/SWEEP/0 outputs/sweep/SWEEP/1 outputs/sweep/SWEEP/2 --csv table.csv
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from image_classifier.engine.confusion.tables import csv_text
from image_classifier.engine.errors import UserError
from image_classifier.engine.project import PROJECT_ROOT
from image_classifier.engine.runs.comparison import ABSENT, Run, common_stage, differing_settings, load_run
from image_classifier.engine.runs.files import write_atomically
from image_classifier.engine.terminal import say
from image_classifier.engine.terminal_tables import Table, console

# torch and matplotlib are imported for page and picture only, after the tables are on the screen.

OUTPUT_DIR = PROJECT_ROOT / "outputs" / "comparisons"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Compare finished runs.")
    parser.add_argument("runs", nargs="+", metavar="RUN", type=Path, help="run directory, or that of a sweep's job")
    parser.add_argument("--output", type=Path, metavar="PNG", help="picture of the difference of two runs' matrices")
    parser.add_argument("--page", type=Path, metavar="HTML", help="the page with everything")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the tables to a CSV file too")
    options = parser.parse_args(arguments)
    try:
        compare(options.runs, options.output, options.csv, options.page)
    except UserError as error:
        say(f"error: {error}", sys.stderr)
        sys.exit(2)


def compare(
    directories: Sequence[Path], output: Path | None = None, csv_file: Path | None = None, page: Path | None = None
) -> None:
    """Print the tables, write the page and, of two runs, draw the difference.

    Args:
        directories: Run directories, at least two.
        output: Where the picture goes; None for beside the page.
        csv_file: Where the tables go too.
        page: Where the page goes; None for beside the picture, or a directory in `outputs/comparisons/`.

    Raises:
        UserError: A directory holds no finished run, or the matrices have different classes.
    """
    if len(directories) < 2:
        raise UserError(f"expected at least two run directories but found {len(directories)}; see outputs/train/")
    if output is not None and len(directories) > 2:
        raise UserError(f"expected two runs for a picture of their difference but found {len(directories)}")
    runs = [load_run(directory) for directory in directories]
    settings, metrics = differing_settings(runs), metric_rows(runs)
    print_table("Settings that differ", runs, settings or [("none", *[""] * len(runs))])
    print_table("Metrics", runs, metrics)
    if csv_file is not None:
        write_csv(csv_file, runs, settings, metrics)
        say(f"Tables: {csv_file}")
    from image_classifier.engine.runs.comparison import write_comparison

    beside = output.parent if output else OUTPUT_DIR / name_of(runs)
    page = write_comparison(runs, page or beside / "comparison.html")
    say(f"Page: {page}")
    if len(runs) == 2:
        stage = common_stage(runs)
        if stage is None:
            say("The runs have no confusion matrix of the same stage, so there is no picture of their difference.")
            return
        path = output or page.with_name("difference.png")
        draw_difference(runs, stage, path)
        say(f"Difference of the {stage} matrices (second run minus first): {path}")


def name_of(runs: Sequence[Run]) -> str:
    """The directory of a comparison: the first two runs, and how many more."""
    more = f"_and_{len(runs) - 2}_more" if len(runs) > 2 else ""
    return f"{runs[0].name}_to_{runs[1].name}{more}".replace("/", "_")


def metric_rows(runs: Sequence[Run]) -> list[tuple[str, ...]]:
    """Rows of a metric and its value in each run; of two runs also the difference, second minus first."""
    rows = []
    for key in dict.fromkeys(key for run in runs for key in run.metrics):
        values = [run.metrics.get(key) for run in runs]
        row = [key, *(ABSENT if value is None else shown(value) for value in values)]
        if len(runs) == 2:
            first, second = values
            row.append(ABSENT if first is None or second is None else shown(second - first, sign="+"))
        rows.append(tuple(row))
    return rows


def shown(value: float, sign: str = "") -> str:
    return f"{value:{sign}.5g}" if isinstance(value, float) else f"{value:{sign}}"


def print_table(title: str, runs: Sequence[Run], rows: Sequence[Sequence[str]]) -> None:
    with_difference = bool(rows) and len(rows[0]) > len(runs) + 1
    headings = [*(run.name for run in runs), *(["difference"] * with_difference)]
    table = Table(title, [""], numbers=headings, whole=True)
    for row in rows:
        table.add_row(*row)
    console().print(table)


def write_csv(
    path: Path, runs: Sequence[Run], settings: Sequence[Sequence[str]], metrics: Sequence[Sequence[str]]
) -> None:
    rows = [("setting", row) for row in settings] + [("metric", row) for row in metrics]
    table = [["kind", "name", *(run.name for run in runs)], *([kind, *row[: len(runs) + 1]] for kind, row in rows)]
    write_atomically(path, csv_text(table))


def draw_difference(runs: Sequence[Run], stage: str, path: Path) -> None:
    """Draw by how many percentage points of the true class each cell changed from the first run to the second.

    Raises:
        UserError: The runs have different classes.
    """
    from image_classifier.engine.confusion.matrix import from_csv, normalize
    from image_classifier.engine.figures import report as draw
    from image_classifier.engine.figures.confusion_matrix import to_array

    texts = [(run.directory / "confusion_matrix" / f"{stage}.csv").read_text() for run in runs]
    (first, names), (second, other_names) = map(from_csv, texts)
    if names != other_names:
        different = [sorted(set(one) - set(other))[:3] for one, other in ((names, other_names), (other_names, names))]
        raise UserError(
            f"expected runs on the same classes but found {len(names)} and {len(other_names)} in different order or "
            f"with different names, such as {different[0]} and {different[1]}; compare runs on the same data"
        )
    change = 100 * (normalize(second, "true") - normalize(first, "true")).numpy()
    title = f"{stage}: {runs[1].name}\nminus {runs[0].name}"
    write_atomically(path, draw.to_png(to_array(draw.draw_difference(change, names, title))))


if __name__ == "__main__":
    main()
