"""Whether the confidence of the classifier can be believed: expected calibration error and reliability diagram."""

from collections.abc import Sequence

import pytorch_lightning as pl
import torch
from torch import Tensor
from torchmetrics.classification import MulticlassCalibrationError

from image_classifier.engine.loggers.base import log_image
from image_classifier.engine.training.stages import Outputs, StageCallback, ignored_label

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


class Calibration(StageCallback):
    """Logs the metric `<stage>/ece` and the figure `calibration/<stage>`.

    Args:
        bins: Bins of equal width between confidence 0 and 1.
        stages: Any of "val" and "test".
    """

    def __init__(self, bins: int = 15, *, stages: Sequence[str] = ("test",)) -> None:
        super().__init__(stages)
        self.bins = bins
        self.reliability: dict[str, ExpectedCalibrationError] = {}

    def start(self, stage: str, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        number = len(trainer.datamodule.class_names)  # type: ignore[attr-defined]
        ignored = ignored_label(pl_module)
        metric = ExpectedCalibrationError(number, self.bins, ignore_index=ignored, validate_args=False)
        self.reliability[stage] = metric.to(pl_module.device)

    def collect(self, stage: str, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Outputs) -> None:
        self.reliability[stage].update(outputs.logits, outputs.targets)

    def finish(self, stage: str, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        found = self.reliability.pop(stage).compute()  # over the samples of all processes
        pl_module.log(f"{stage}/ece", found["ece"].float())
        if trainer.is_global_zero:
            from image_classifier.engine.figures.reliability import draw_reliability

            bins = {name: found[name].cpu().numpy() for name in ("count", "confidence", "accuracy")}
            title = f"{stage}, expected calibration error {float(found['ece']):.2%}"
            log_image(trainer, f"calibration/{stage}", draw_reliability(**bins, title=title), trainer.global_step)
