"""What callbacks may ask of any logger. Each logger's own way of doing it stands in its own file."""

import html
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from PIL import Image
from pytorch_lightning.loggers import WandbLogger


class RunLogger:
    """Mix-in for Lightning's loggers.

    A logger that takes pictures has `log_image(key, images, step)`, as Lightning's own loggers do, where an image
    is an (H, W, 3) uint8 array. A method here that answers False says that the logger has no such form.
    """

    def log_markdown(self, key: str, markdown: str, step: int) -> bool:
        """Log a text or a table in Markdown."""
        return False

    def log_facts(self, facts: Mapping[str, Any]) -> None:
        """Log what is known before training starts, under flat keys."""
        self.log_hyperparams(dict(facts))  # type: ignore[attr-defined]

    def log_final_metrics(self, metrics: Mapping[str, float]) -> None:
        """Log the final figures of the run, once."""

    def close(self) -> None:
        """Write everything out and end the run, so that the next job of a multirun starts its own."""
        self.finalize("success")  # type: ignore[attr-defined]


def log_image(trainer: pl.Trainer, key: str, image: np.ndarray, step: int) -> None:
    """Give a picture to every logger that takes pictures; when none does, write it to the run directory.

    Args:
        trainer: Its `loggers` are asked; its `default_root_dir` is the run directory.
        key: Such as "confusion_matrix/val".
        image: (H, W, 3) uint8.
        step: Optimizer steps so far.
    """
    if not trainer.is_global_zero:
        return
    takers = [logger for logger in trainer.loggers if hasattr(logger, "log_image")]
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


def log_small_table(
    trainer: pl.Trainer, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int
) -> None:
    """Give a table of a few rows to every logger that takes texts or tables.

    Args:
        trainer: Its `loggers` are asked.
        key: Such as "most_confused/val".
        columns: Headings.
        rows: Texts and numbers, one for each column.
        step: Optimizer steps so far.
    """
    if not trainer.is_global_zero:
        return
    lines = [columns, ["---"] * len(columns), *rows]
    markdown = "\n".join(f"| {' | '.join(markdown_cell(cell) for cell in line)} |" for line in lines)
    for logger in trainer.loggers:
        taken = isinstance(logger, RunLogger) and logger.log_markdown(key, markdown, step)
        if not taken and isinstance(logger, WandbLogger):
            logger.log_table(key, columns=list(columns), data=[list(row) for row in rows], step=step)


def markdown_cell(value: Any) -> str:
    """A value as it stands in one cell of a Markdown table."""
    escaped = re.sub(r"([\\`*_{}\[\]|])", r"\\\1", html.escape(str(value), quote=False))
    return " ".join(escaped.split())
