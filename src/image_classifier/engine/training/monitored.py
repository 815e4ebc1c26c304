"""Tells of a monitored metric that nobody logs once the first validation has ended."""

from collections.abc import Sequence

import pytorch_lightning as pl

from image_classifier.engine.errors import UserError


class MonitoredMetrics(pl.Callback):
    """Ends the training after its first validation where a monitored metric is not there.

    Lightning's early stopping would go on without a word, for an epoch may be without a validation.

    Args:
        settings: Pairs of a setting and the metric that it names.
    """

    def __init__(self, settings: Sequence[tuple[str, str]]) -> None:
        self.settings = settings

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        logged = sorted(name for name in trainer.callback_metrics if name.startswith("val/"))
        for setting, name in self.settings:
            if name.startswith("val/") and name not in logged:
                raise UserError(f"expected {setting} to be logged, one of {', '.join(logged)}, but found {name}")
        self.settings = ()
