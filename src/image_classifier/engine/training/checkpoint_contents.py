"""What checkpoints hold beside the weights: the recipe that rebuilds model and data, and the metrics of their epoch."""

from typing import Any

import pytorch_lightning as pl

from image_classifier.engine.runs.results import Results


class CheckpointContents(pl.Callback):
    """Adds the `recipe`, the latest validation `metrics` and `training_metrics` to every checkpoint.

    Args:
        recipe: Plain containers.
        results: Holds the counts of the latest validation, which each checkpoint keeps as `counts`.
    """

    def __init__(self, recipe: dict[str, Any], results: Results | None = None) -> None:
        self.recipe = recipe
        self.results = results or Results()
        self.training_metrics: dict[str, float] = {}  # of the last whole epoch

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["recipe"] = self.recipe
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        checkpoint["metrics"] = {name: value for name, value in metrics.items() if name.startswith("val/")}
        self.training_metrics |= {
            name: value for name, value in metrics.items() if name.startswith("train/") and not name.endswith("_step")
        }
        checkpoint["training_metrics"] = dict(self.training_metrics)
        counts = self.results.counts.get("val")
        if counts is not None:
            checkpoint["counts"] = counts.int() if counts.sum() < 2**31 else counts

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self.training_metrics = training_metrics(checkpoint)
        if checkpoint.get("counts") is not None:
            self.results.counts["val"] = checkpoint["counts"].long()


def training_metrics(checkpoint: dict[str, Any]) -> dict[str, float]:
    """The training metrics of the last whole epoch before a checkpoint: those of a run with nothing left to train."""
    earlier = checkpoint["callbacks"].get("LastCheckpoint", {}).get("metrics", {})  # where they were before
    return dict(checkpoint.get("training_metrics", earlier))
