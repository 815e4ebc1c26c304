"""A run that goes on in its directory goes on in its loggers: no step twice, none missing.

A checkpoint holds what its loggers had written by then (`RunLogger.mark`), and what Lightning logs only after it. A run
that is resumed in the same directory begins there: files are cut back to that place, and services, which cannot forget,
are told only what they do not have.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from image_classifier.engine.loggers.base import RunLogger

KEY = "logged"  # in a checkpoint


class MarkLoggers(pl.Callback):
    """Has all loggers write out what they hold before a checkpoint is written, which notes how far that is."""

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        pending, step = still_to_be_logged(trainer)  # in all processes: metrics are summed over them
        if trainer.is_global_zero:
            marks = {type(logger).__name__: logger.mark() for logger in run_loggers(trainer.loggers)}
            checkpoint[KEY] = {"marks": marks, "metrics": pending, "step": step}


def still_to_be_logged(trainer: Any) -> tuple[dict[str, float], int]:
    """What the end of a training batch or epoch will log, and the step that it will be logged at.

    Of Lightning 2.6: it logs after the hooks in which checkpoints are written, and not again after a resume. Without
    this, the row of that step is missing (tests/engine/loggers/test_resumption.py).
    """
    connector, loop = trainer._logger_connector, trainer.fit_loop.epoch_loop
    at_end_of_epoch = connector._first_loop_iter is None
    if not trainer.training or trainer._results is None or not (at_end_of_epoch or connector.should_update_logs):
        return {}, 0
    metrics = {name: float(value) for name, value in connector.metrics["log"].items()}
    step = int(metrics.pop("step", loop._batches_that_stepped - at_end_of_epoch))
    return ({"epoch": trainer.current_epoch, **metrics} if metrics else {}), step


def begin(loggers: list[Any], run_dir: str | Path, ckpt_path: str | None, checkpoint: Mapping[str, Any] | None) -> None:
    """Go on in the loggers' runs when the checkpoint is of this run directory; else begin new ones.

    Args:
        loggers: Before anything is logged.
        run_dir: Where they write to.
        ckpt_path: The checkpoint that the training goes on from, or None.
        checkpoint: What it holds.
    """
    if checkpoint is None or not Path(str(ckpt_path)).resolve().is_relative_to(Path(run_dir).resolve()):
        for logger in run_loggers(loggers):
            logger.start_anew()
        return
    logged = checkpoint.get(KEY) or {"marks": {}, "metrics": {}, "step": 0}  # by an earlier version
    for logger in run_loggers(loggers):
        logger.go_on(logged["marks"].get(type(logger).__name__), checkpoint["global_step"])
        if logged["metrics"]:
            logger.log_metrics(logged["metrics"], logged["step"])


def run_loggers(loggers: list[Any]) -> list[Any]:
    return [logger for logger in loggers if isinstance(logger, RunLogger)]
