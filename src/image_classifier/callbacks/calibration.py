"""Whether the confidence of the classifier can be believed: expected calibration error and reliability diagram."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torchmetrics.classification import MulticlassCalibrationError

from image_classifier.engine.loggers.base import log_image

BELOW_ONE = 1 - 2**-24  # the largest float32 below 1


class ExpectedCalibrationError(MulticlassCalibrationError):
    """Expected calibration error (arXiv:1706.04599, 15 bins) together with the bins that it is made of.

    Keeps eight bytes a sample: its confidence, and whether it was right.
    """

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add a batch: (B, K) logits and (B,) classes."""
        # torchmetrics takes logits that happen to lie between 0 and 1 for probabilities, and puts a confidence
        # of exactly 1, which a sure classifier reaches in float32, into a bin of its own.
        super().update(preds.softmax(1).clamp(max=BELOW_ONE), target)

    def compute(self) -> dict[str, Tensor]:  # type: ignore[override]
        """`ece`, and per bin, each (15,): `count`, mean `confidence` and `accuracy` (0 in empty bins)."""
        confidences = torch.cat([value.view(-1) for value in self.confidences]).double()
        correct = torch.cat([value.view(-1) for value in self.accuracies]).double()
        bins = (confidences * self.n_bins).long()
        count = torch.bincount(bins, minlength=self.n_bins)
        return {
            "ece": super().compute(),
            "count": count,
            "confidence": torch.bincount(bins, confidences, self.n_bins) / count.clamp(min=1),
            "accuracy": torch.bincount(bins, correct, self.n_bins) / count.clamp(min=1),
        }


class Calibration(pl.Callback):
    """Logs the metric `<stage>/ece` and the picture `calibration/<stage>`.

    Args:
        bins: Bins of equal width between confidence 0 and 1.
        stages: Any of "val" and "test".
    """

    def __init__(self, bins: int = 15, *, stages: Sequence[str] = ("test",)) -> None:
        self.bins = bins
        self.stages = tuple(stages)
        self.reliability: dict[str, ExpectedCalibrationError] = {}
        self.pictures: dict[str, np.ndarray] = {}  # the last diagram of each stage, (H, W, 3) uint8

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.start("val", trainer, pl_module)

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.start("test", trainer, pl_module)

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *args: Any
    ) -> None:
        self.collect("val", outputs)

    def on_test_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *args: Any) -> None:
        self.collect("test", outputs)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.finish("val", trainer, pl_module)

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.finish("test", trainer, pl_module)

    def start(self, stage: str, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if stage in self.stages:
            number = len(trainer.datamodule.class_names)  # type: ignore[attr-defined]
            ignored = int(pl_module.ignore_index)  # type: ignore[arg-type]
            metric = ExpectedCalibrationError(number, self.bins, ignore_index=ignored, validate_args=False)
            self.reliability[stage] = metric.to(pl_module.device)

    def collect(self, stage: str, outputs: Any) -> None:
        if stage in self.stages:
            self.reliability[stage].update(outputs["logits"], outputs["targets"])

    def finish(self, stage: str, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if stage not in self.stages or trainer.sanity_checking:
            return
        figures = self.reliability.pop(stage).compute()  # over the samples of all processes
        pl_module.log(f"{stage}/ece", figures["ece"].float())
        if trainer.is_global_zero:
            from image_classifier.engine.figures.confusion_matrix import to_array
            from image_classifier.engine.figures.report import draw_reliability

            bins = {name: figures[name].cpu().numpy() for name in ("count", "confidence", "accuracy")}
            title = f"{stage}, expected calibration error {float(figures['ece']):.2%}"
            self.pictures[stage] = to_array(draw_reliability(**bins, title=title))
            log_image(trainer, f"calibration/{stage}", self.pictures[stage], trainer.global_step)
