"""What a further metric costs in an epoch: python benchmarks/metrics.py

CPU time of updating and computing it over the validation set of the default experiment (5,000 images, 10 classes),
beside that of an epoch of the default CNN without it.
"""

from common import Row, write_results

# isort: split
import statistics
import time

import pytorch_lightning as pl
import torch
from epoch import fit

from image_classifier.engine.launch.assembly import make_metrics

ROUNDS = 7
IMAGES, BATCH, CLASSES = 5000, 1000, 10
OF_TORCHMETRICS = "torchmetrics.classification"
METRICS = {
    "top-3 accuracy": {"_target_": f"{OF_TORCHMETRICS}.MulticlassAccuracy", "top_k": 3, "average": "micro"},
    "F-beta": {"_target_": f"{OF_TORCHMETRICS}.MulticlassFBetaScore", "beta": 2.0},
    "Matthews correlation": {"_target_": f"{OF_TORCHMETRICS}.MulticlassMatthewsCorrCoef"},
    "Cohen's kappa": {"_target_": f"{OF_TORCHMETRICS}.MulticlassCohenKappa"},
    "calibration error": {"_target_": f"{OF_TORCHMETRICS}.MulticlassCalibrationError"},
    "AUROC": {"_target_": f"{OF_TORCHMETRICS}.MulticlassAUROC"},
    "AUROC, 100 thresholds": {"_target_": f"{OF_TORCHMETRICS}.MulticlassAUROC", "thresholds": 100},
    "average precision": {"_target_": f"{OF_TORCHMETRICS}.MulticlassAveragePrecision"},
    "average precision, 100 thresholds": {
        "_target_": f"{OF_TORCHMETRICS}.MulticlassAveragePrecision",
        "thresholds": 100,
    },
}


class EpochCPU(pl.Callback):
    """CPU seconds of the process in each epoch, validation included."""

    def __init__(self) -> None:
        self.marks: list[float] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.marks.append(time.process_time())


def cpu_milliseconds(settings: dict[str, object]) -> float:
    """Of one validation."""
    (metric,) = make_metrics({"it": settings}, CLASSES, ()).values()
    generator = torch.Generator().manual_seed(0)
    batches = [
        (torch.randn(BATCH, CLASSES, generator=generator), torch.randint(CLASSES, (BATCH,), generator=generator))
        for _ in range(IMAGES // BATCH)
    ]
    times = []
    for _ in range(ROUNDS + 1):
        start = time.process_time()
        for logits, targets in batches:
            metric.update(logits, targets)
        metric.compute()
        metric.reset()
        times.append((time.process_time() - start) * 1e3)
    return statistics.median(times[1:])


def main() -> list[Row]:
    callback = fit(lambda *_: EpochCPU(), "trainer.max_epochs=4", "callbacks.early_stopping=null")
    assert isinstance(callback, EpochCPU)
    epoch = statistics.median(second - first for first, second in zip(callback.marks, callback.marks[1:], strict=False))
    rows = []
    for name, settings in METRICS.items():
        cost = cpu_milliseconds(settings)
        note = f"{cost / epoch / 10:.2f} % of the {epoch:.1f} s of CPU time of an epoch of the default CNN"
        rows.append(Row(f"{name} over 5,000 validation images", cost, "ms", None, samples=ROUNDS, note=note))
    write_results("metrics", rows)
    return rows


if __name__ == "__main__":
    main()
