"""Lightning's hooks of validation and test as three calls: start, collect and finish of a stage."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pytorch_lightning as pl
from torch import Tensor

from image_classifier.engine.errors import UserError

NO_CLASS = -100  # label of an image without one, where the module does not say otherwise


class Outputs(NamedTuple):
    """What a validation or test step says of a batch."""

    images: Tensor  # (B, C, H, W) float, normalised
    logits: Tensor  # (B, K) float32
    predicted: Tensor  # (B,) int64
    targets: Tensor  # (B,) int64
    batch_idx: int  # from 0

    @classmethod
    def of(cls, step_output: Any, batch: Any, batch_idx: int) -> "Outputs":
        """From what a step returned: (B, K) logits, or a dictionary that holds them as `logits`."""
        images, targets = batch[0], batch[1]
        logits = step_output.get("logits") if isinstance(step_output, Mapping) else step_output
        if not isinstance(logits, Tensor):
            raise UserError(
                "expected validation_step and test_step to return (B, K) logits, or a dictionary that holds them as "
                f"`logits`, but found {type(logits).__name__}"
            )
        logits = logits.float()
        return cls(images, logits, logits.argmax(1), targets, batch_idx)


class StageCallback(pl.Callback):
    """A callback that looks at all samples of a stage. Lightning's sanity check is no stage.

    Args:
        stages: Those that it looks at, any of "val" and "test".
    """

    def __init__(self, stages: Sequence[str] = ("val", "test")) -> None:
        self.stages = tuple(stages)

    def start(self, stage: str, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Before the first batch."""

    def collect(self, stage: str, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Outputs) -> None:
        """After each batch."""

    def finish(self, stage: str, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """After the last batch, while metrics can still be logged."""

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if "val" in self.stages and not trainer.sanity_checking:
            self.start("val", trainer, pl_module)

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if "test" in self.stages:
            self.start("test", trainer, pl_module)

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        if "val" in self.stages and not trainer.sanity_checking:
            self.collect("val", trainer, pl_module, Outputs.of(outputs, batch, batch_idx))

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        if "test" in self.stages:
            self.collect("test", trainer, pl_module, Outputs.of(outputs, batch, batch_idx))

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if "val" in self.stages and not trainer.sanity_checking:
            self.finish("val", trainer, pl_module)

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if "test" in self.stages:
            self.finish("test", trainer, pl_module)


def ignored_label(pl_module: pl.LightningModule) -> int:
    """The label of samples that count nowhere."""
    return int(getattr(pl_module, "ignore_index", NO_CLASS))
