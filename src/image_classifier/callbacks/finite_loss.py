"""Ends a training whose loss is no longer a number, before a checkpoint of it is kept."""

import math

import pytorch_lightning as pl

from image_classifier.engine.errors import UserError


class FiniteLoss(pl.Callback):
    """Raises UserError after an epoch whose training or validation loss is nan or infinite."""

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        check_finite(trainer, "val/loss")  # Lightning saves checkpoints after all other callbacks

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        check_finite(trainer, "train/loss")


def check_finite(trainer: pl.Trainer, name: str) -> None:
    value = float(trainer.callback_metrics.get(name, 0.0))
    if not math.isfinite(value):
        raise UserError(
            f"expected a finite loss but found {name}={value} in epoch {trainer.current_epoch + 1}; "
            "try a lower model.optimizer.lr, or trainer.gradient_clip_val=1.0"
        )
