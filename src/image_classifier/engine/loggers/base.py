"""What callbacks may ask of any logger. Each logger's own way of doing it stands in its own file."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from PIL import Image

from image_classifier.engine.confusion.tables import csv_text, markdown_text
from image_classifier.engine.runs.files import write_atomically

Table = Mapping[str, Mapping[str, float]]  # {column: {row: value}}; of a large matrix it holds some cells only


class RunLogger:
    """Mix-in for Lightning's loggers. What it may say of itself to its guard stands in guard.py.

    A logger that takes pictures has `log_image(key, images, step)`, as Lightning's own loggers do, where an image
    is an (H, W, 3) uint8 array. A method here that answers False says that the logger has no such form.
    """

    def log_markdown(self, key: str, markdown: str, step: int) -> bool:
        """Log a text or a table in Markdown."""
        return False

    def log_rows(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> bool:
        """Log a table of a few rows under headings."""
        return self.log_markdown(key, markdown_text([columns, *rows]), step)

    def log_matrix(self, key: str, table: Table, beside: Mapping[str, float], step: int) -> bool:
        """Log a matrix as a table, with figures such as epoch and accuracy beside it."""
        return False

    def log_matrix_chart(self, key: str, table: Table, title: str, step: int) -> bool:
        """Log a confusion matrix, {predicted: {true: count}}, as an interactive chart."""
        return False

    def group_curves(self, charts: Mapping[str, Mapping[str, str]]) -> None:
        """Show curves together: {heading: {title of a chart: regular expression for the keys of its curves}}."""

    def log_page(self, key: str, page: Path, step: int) -> bool:
        """Log an HTML page that needs nothing but itself; by default a line that says where it lies."""
        return self.log_markdown(key, f"`{page}`", step)

    def log_facts(self, facts: Mapping[str, Any]) -> None:
        """Log what is known before training starts, under flat keys."""
        self.log_hyperparams(dict(facts))  # type: ignore[attr-defined]

    def log_final_metrics(self, metrics: Mapping[str, float]) -> None:
        """Log the final figures of the run, once."""

    def mark(self) -> Any:
        """Write out what was logged so far; returns in plain containers what `go_on` needs to know of it."""
        self.save()  # type: ignore[attr-defined]

    def go_on(self, mark: Any, step: int) -> None:
        """Go on with the run that lies in the run directory, before anything is logged.

        Args:
            mark: What `mark` returned when the checkpoint was written; None where that is not known.
            step: Optimizer steps of the checkpoint.
        """

    def start_anew(self) -> None:
        """Begin a new run, before anything is logged; an earlier one may lie in the run directory."""

    def close(self) -> None:
        """Write everything out and end the run, so that the next job of a multirun starts its own."""
        self.finalize("success")  # type: ignore[attr-defined]


def log_facts(trainer: pl.Trainer, facts: Mapping[str, Any]) -> None:
    """Log what is known of a run before it starts, in every logger."""
    for logger in trainer.loggers if trainer.is_global_zero else ():
        logger.log_facts(facts) if isinstance(logger, RunLogger) else logger.log_hyperparams(dict(facts))


def log_final_metrics(trainer: pl.Trainer, metrics: Mapping[str, float]) -> None:
    """Log the final metrics of a run, in every logger that has a place for them."""
    for logger in trainer.loggers:
        if isinstance(logger, RunLogger):
            logger.log_final_metrics(metrics)


def log_image(
    trainer: pl.Trainer, key: str, image: np.ndarray, step: int, loggers: Sequence[Any] | None = None
) -> None:
    """Give a picture to every logger that takes pictures; when none does, write it to the run directory.

    Args:
        trainer: Its `loggers` are asked; its `default_root_dir` is the run directory.
        key: Such as "confusion_matrix/val".
        image: (H, W, 3) uint8.
        step: Optimizer steps so far.
        loggers: Ask only these.
    """
    if not trainer.is_global_zero:
        return
    takers = [logger for logger in (trainer.loggers if loggers is None else loggers) if hasattr(logger, "log_image")]
    for logger in takers:
        logger.log_image(key, [image], step)
    if not takers:
        path = Path(trainer.default_root_dir) / "images" / f"{key}_step_{step}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)


def log_scalars(trainer: pl.Trainer, scalars: Mapping[str, float], step: int) -> None:
    """Give many scalars to every logger in one call each."""
    if trainer.is_global_zero:
        for logger in trainer.loggers:
            logger.log_metrics(dict(scalars), step)


def log_rows(trainer: pl.Trainer, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None:
    """Give a table of a few rows to every logger that takes texts or tables.

    Args:
        trainer: Its `loggers` are asked.
        key: Such as "most_confused/val".
        columns: Headings.
        rows: Texts and numbers, one for each column.
        step: Optimizer steps so far.
    """
    if trainer.is_global_zero:
        for logger in trainer.loggers:
            if isinstance(logger, RunLogger):
                logger.log_rows(key, columns, rows, step)


def log_matrix(trainer: pl.Trainer, key: str, table: Table, beside: Mapping[str, float], step: int) -> None:
    """Give a matrix to every logger that takes tables; when none does, write it to the run directory as CSV.

    Args:
        trainer: As for `log_image`.
        key: Such as "confusion_matrix_table/val".
        table: The values, {predicted: {true: value}}.
        beside: Figures to show with it.
        step: Optimizer steps so far.
    """
    if not trainer.is_global_zero:
        return
    taken = [logger.log_matrix(key, table, beside, step) for logger in trainer.loggers if isinstance(logger, RunLogger)]
    if not any(taken):
        write_rows(Path(trainer.default_root_dir) / "tables" / f"{key}_step_{step}.csv", table_rows(table))


def log_matrix_chart(trainer: pl.Trainer, key: str, table: Table, title: str, step: int) -> list[Any]:
    """Give a confusion matrix to every logger that has an interactive chart for it; returns the others."""
    if not trainer.is_global_zero:
        return []
    return [
        logger
        for logger in trainer.loggers
        if not (isinstance(logger, RunLogger) and logger.log_matrix_chart(key, table, title, step))
    ]


def log_page(trainer: pl.Trainer, key: str, page: Path) -> None:
    """Give an HTML page to every logger, in the form that it has for one."""
    if trainer.is_global_zero:
        for logger in trainer.loggers:
            if isinstance(logger, RunLogger):
                logger.log_page(key, page, trainer.global_step)


def group_curves(trainer: pl.Trainer, charts: Mapping[str, Mapping[str, str]]) -> None:
    """Tell every logger which curves belong into one chart."""
    if trainer.is_global_zero:
        for logger in trainer.loggers:
            if isinstance(logger, RunLogger):
                logger.group_curves(charts)


def table_rows(table: Table) -> list[list[Any]]:
    """A table as rows under a header: a grid when it is complete, else one row per cell."""
    rows = list(dict.fromkeys(row for column in table.values() for row in column))
    if all(len(column) == len(rows) for column in table.values()):
        return [
            ["true \\ predicted", *table],
            *([row, *(column[row] for column in table.values())] for row in rows),
        ]
    cells = ([true, predicted, value] for predicted, column in table.items() for true, value in column.items())
    return [["true", "predicted", "value"], *cells]


def write_rows(path: Path, rows: Sequence[Sequence[Any]]) -> None:
    """Write a CSV file."""
    write_atomically(path, csv_text(rows))


def markdown_table(table: Table) -> str:
    """A table in Markdown."""
    return markdown_text(table_rows(table))


def shortened(text: str, length: int) -> str:
    """A text of at most so many characters; what is cut is replaced by a digest, so that different texts differ."""
    return text if len(text) <= length else f"{text[: length - 9]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
