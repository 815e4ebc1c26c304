"""The most confused pairs of classes, epoch by epoch, as a small table."""

import pytorch_lightning as pl

from image_classifier.engine.confusion.matrix import most_confused
from image_classifier.engine.loggers.base import log_rows
from image_classifier.engine.runs.results import Results

COLUMNS = ("true class", "taken for", "count", "share of the true class")


class MostConfused(pl.Callback):
    """Logs the table `most_confused/<stage>` from the counts of the confusion-matrix callback.

    Args:
        limit: Rows.
        results: Holds the counts.
    """

    def __init__(self, limit: int = 5, *, results: Results | None = None) -> None:
        self.limit = limit
        self.results = results or Results()

    # At the end of the stage, not of its epoch: only then have all callbacks finished counting.
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking:
            self.publish("val", trainer)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.publish("test", trainer)

    def publish(self, stage: str, trainer: pl.Trainer) -> None:
        if not trainer.is_global_zero or stage not in self.results.counts:
            return
        pairs = most_confused(self.results.counts[stage], self.results.class_names, self.limit)
        rows = [(pair.true, pair.predicted, pair.samples, f"{pair.share:.1%}") for pair in pairs]
        log_rows(trainer, f"most_confused/{stage}", COLUMNS, rows, trainer.global_step)
