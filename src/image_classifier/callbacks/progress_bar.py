"""The progress bar of a terminal."""

from time import monotonic
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import RichProgressBar


class ProgressBar(RichProgressBar):
    """Lightning's bar, which gathers its figures only as often as it is drawn, and not in every step.

    Args:
        refresh_rate: Times a second that it is drawn; 0 hides it.
        settings: Further arguments of Lightning's `RichProgressBar`.
    """

    def __init__(self, refresh_rate: int = 4, **settings: Any) -> None:
        super().__init__(refresh_rate, **settings)
        self.next_update = 0.0  # of `monotonic`

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = monotonic()
        if self.is_enabled and (now >= self.next_update or batch_idx + 1 == trainer.num_training_batches):
            self.next_update = now + 1 / self.refresh_rate
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
