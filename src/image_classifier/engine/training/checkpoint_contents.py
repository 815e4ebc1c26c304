"""What checkpoints hold beside the weights: the recipe that rebuilds model and data, and the metrics of their epoch."""

from typing import Any

import pytorch_lightning as pl

from image_classifier.engine.runs.results import Results


class CheckpointContents(pl.Callback):
    """Adds the `recipe` and the latest validation `metrics` to every checkpoint.

    Args:
        recipe: Plain containers.
        results: Holds the counts of the latest validation, which each checkpoint keeps as `counts`.
    """

    def __init__(self, recipe: dict[str, Any], results: Results | None = None) -> None:
        self.recipe = recipe
        self.results = results or Results()

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["recipe"] = self.recipe
        checkpoint["metrics"] = {
            name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")
        }
        counts = self.results.counts.get("val")
        if counts is not None:
            checkpoint["counts"] = counts.int() if counts.sum() < 2**31 else counts

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if checkpoint.get("counts") is not None:
            self.results.counts["val"] = checkpoint["counts"].long()
