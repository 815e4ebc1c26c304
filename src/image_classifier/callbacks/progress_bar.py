"""The progress bar of a terminal."""

import math
from time import monotonic
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import RichProgressBar

LOOKS = 50  # a second of the thread that draws; each epoch waits for the last of them


class ProgressBar(RichProgressBar):
    """Lightning's bar, which gathers its figures only as often as it is drawn, and not in every step.

    Args:
        refresh_rate: Times a second that it is drawn; 0 hides it.
        settings: Further arguments of Lightning's `RichProgressBar`.
    """

    def __init__(self, refresh_rate: int = 4, **settings: Any) -> None:
        super().__init__(LOOKS if refresh_rate else 0, **settings)
        self.seconds_between_updates = 1 / refresh_rate if refresh_rate else math.inf
        self.next_update = 0.0  # of `monotonic`

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = monotonic()
        if self.is_enabled and (now >= self.next_update or batch_idx + 1 == trainer.num_training_batches):
            self.next_update = now + self.seconds_between_updates
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
