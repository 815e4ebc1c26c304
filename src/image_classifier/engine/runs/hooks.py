"""What a callback may add to a run beside Lightning's own hooks."""

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl


class RunCallback(pl.Callback):
    """A callback that the pipeline tells about the best checkpoint and about the end of the run."""

    def on_best_checkpoint(self, trainer: pl.Trainer, checkpoint: Mapping[str, Any]) -> None:
        """The training is over; this is the content of its best checkpoint, perhaps from before a resume."""

    def on_run_end(self, trainer: pl.Trainer, metrics: Mapping[str, float]) -> None:
        """Everything has run, on the first process alone; these are the final metrics, which lie in `metrics.json`."""
