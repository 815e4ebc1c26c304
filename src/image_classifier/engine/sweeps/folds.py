"""What a cross-validation leaves behind: mean and deviation of the figures, and one matrix over all folds."""

import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from torch import Tensor

from image_classifier.engine.confusion.tables import csv_text, markdown_text, read_text
from image_classifier.engine.runs.files import write_atomically
from image_classifier.engine.settings import value_at
from image_classifier.engine.sweeps.jobs import Job
from image_classifier.engine.terminal import say
from image_classifier.engine.terminal_tables import Table, console

FOLD = "data.fold"
SHOWN = ("val/acc", "val/loss", "test/acc", "test/loss")  # on the terminal


@dataclass(frozen=True)
class CrossValidation:
    """The jobs of one cross-validation: they differ in the fold only.

    Attributes:
        settings: The swept settings besides the fold; empty when nothing else was swept.
        folds: How many folds there are.
        jobs: The finished job of each fold.
    """

    settings: str
    folds: int
    jobs: dict[int, Job]

    @property
    def complete(self) -> bool:
        return len(self.jobs) == self.folds

    @property
    def name(self) -> str:
        done = "" if self.complete else f" ({len(self.jobs)} of {self.folds} folds)"
        return (self.settings or "all folds") + done


def report_folds(sweep_dir: Path, jobs: Sequence[Job]) -> None:
    """Write and show what the cross-validations among the jobs of a sweep came to; nothing where there are none.

    `folds.csv` and `folds.md` hold mean and sample standard deviation of each figure; `folds/confusion_matrix.csv` and
    `.png` the counts of all validation images, each predicted by the network that was not trained on it. With several
    cross-validations in a sweep, each has a number behind the name.
    """
    found = cross_validations(jobs)
    if not found:
        return
    rows = table_rows(found)
    write_atomically(sweep_dir / "folds.csv", csv_text(rows))
    write_atomically(sweep_dir / "folds.md", markdown_text(rows))
    for number, validation in enumerate(found):
        name = "confusion_matrix" + (f"_{number}" if len(found) > 1 else "")
        if validation.complete:
            write_matrix(sweep_dir / "folds" / name, validation)
        else:
            missing = sorted(set(range(validation.folds)) - validation.jobs.keys())
            say(f"Folds without a finished job: {', '.join(map(str, missing))}; no matrix over all", sys.stderr)
    show(rows)
    say(f"Over all folds: {sweep_dir}/folds.md, .csv, folds/confusion_matrix*.csv, .png")


def cross_validations(jobs: Sequence[Job]) -> list[CrossValidation]:
    """The cross-validations among the jobs of a sweep, in the order of their first jobs."""
    groups: dict[tuple[str, ...], list[Job]] = defaultdict(list)
    for job in jobs:
        if FOLD in job.settings:
            others = (text for text in job.overrides if text.lstrip("+~").partition("=")[0] != FOLD)
            groups[tuple(sorted(others))].append(job)
    everywhere = set.intersection(*map(set, groups)) if groups else set()
    found = []
    for overrides, members in groups.items():
        done = {int(job.settings[FOLD]): job for job in members if job.done and job.metrics}
        if done:
            settings = ", ".join(override for override in overrides if override not in everywhere)
            found.append(
                CrossValidation(settings, number_of_folds(next(iter(done.values()))), dict(sorted(done.items())))
            )
    return [validation for validation in found if validation.folds]


def number_of_folds(job: Job) -> int:
    """What a job's `config.yaml` says; 0 where its images were not split in folds."""
    configuration = job.directory / "config.yaml"
    if not configuration.is_file():
        return 0
    folds = value_at(yaml.safe_load(configuration.read_text()), "data.folds")  # nothing in it is resolved
    return folds if isinstance(folds, int) else 0


def table_rows(validations: Sequence[CrossValidation]) -> list[list[str]]:
    """A heading, then a row for each figure of each cross-validation."""
    folds = range(max(validation.folds for validation in validations))
    rows = [["settings", "figure", "mean", "deviation", "folds", *(f"fold {fold}" for fold in folds)]]
    for validation in validations:
        names = dict.fromkeys(name for job in validation.jobs.values() for name in job.metrics)
        for name in (name for name in names if name.startswith(("val/", "test/"))):
            figures = {fold: job.metrics[name] for fold, job in validation.jobs.items() if name in job.metrics}
            values = list(figures.values())
            deviation = f"{statistics.stdev(values):.7g}" if len(values) > 1 else ""
            own = [f"{figures[fold]:.7g}" if fold in figures else "" for fold in folds]
            rows.append([validation.name, name, f"{statistics.mean(values):.7g}", deviation, str(len(values)), *own])
    return rows


def write_matrix(path: Path, validation: CrossValidation) -> None:
    """Write the counts of all folds together as `<path>.csv` and `<path>.png`."""
    from PIL import Image

    from image_classifier.engine.confusion.matrix import from_csv, overall_metrics
    from image_classifier.engine.confusion.matrix import to_csv as counts_to_csv
    from image_classifier.engine.figures.confusion_matrix import draw_confusion_matrix

    files = [job.directory / "confusion_matrix" / "val.csv" for job in validation.jobs.values()]
    if not all(file.is_file() for file in files):
        say("Folds without counts of their validation; no matrix over all", sys.stderr)
        return
    matrices = [from_csv(read_text(file)) for file in files]
    counts: Tensor = sum(counts for counts, _ in matrices)  # type: ignore[assignment]
    names = matrices[0][1]
    write_atomically(path.with_suffix(".csv"), counts_to_csv(counts, names))
    accuracy = float(counts.diag().sum() / counts.sum().clamp(min=1))
    title = f"All {validation.folds} folds, {int(counts.sum())} images, accuracy {accuracy:.2%}"
    Image.fromarray(draw_confusion_matrix(counts, names, title=title)).save(path.with_suffix(".png"))
    say(f"{validation.name}: {title}; balanced accuracy {overall_metrics(counts)['balanced_acc']:.2%}")


def show(rows: Sequence[Sequence[str]]) -> None:
    table = Table("Over the folds", rows[0][:2], numbers=rows[0][2:5], whole=True)
    for row in rows[1:]:
        if row[1] in SHOWN:
            table.add_row(*row[:2], *(shortened(cell) for cell in row[2:4]), row[4])
    console().print(table)


def shortened(figure: str) -> str:
    return f"{float(figure):.4f}" if figure else ""
