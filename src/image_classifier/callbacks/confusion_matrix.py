"""The confusion matrix of every validation epoch and of the test, in the chosen form, in every logger."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor

from image_classifier.confusion import matrix
from image_classifier.confusion.counts import ConfusionCounts
from image_classifier.files import write_atomically
from image_classifier.loggers.base import log_image, log_scalars


class ConfusionMatrixCallback(pl.Callback):
    """Counts, logs and saves the confusion matrix.

    Args:
        run_dir: Raw counts are saved to `<run_dir>/confusion_matrix/<stage>.csv`; for validation those of
            the best epoch.
        forms: Any of "image" (a figure) and "scalar" (one scalar per cell); empty logs nothing.
        normalize: "none", "true" (rows sum to 1), "pred" (columns sum to 1) or "all".
        every_n_epochs: Validation epochs between two logged matrices; counting goes on in every epoch.
        stages: Any of "val" and "test".
        ignore_index: Samples with this target are not counted.
    """

    def __init__(
        self,
        run_dir: str,
        *,
        forms: Sequence[str] = ("image",),
        normalize: matrix.Normalization = "none",
        every_n_epochs: int = 1,
        stages: Sequence[str] = ("val", "test"),
        ignore_index: int = -100,
    ) -> None:
        self.directory = Path(run_dir) / "confusion_matrix"
        self.forms = tuple(forms)
        self.normalize = normalize
        self.every_n_epochs = every_n_epochs
        self.stages = tuple(stages)
        self.ignore_index = ignore_index
        self.counts: dict[str, ConfusionCounts] = {}
        self.matrices: dict[str, Tensor] = {}  # the last (K, K) counts of each stage, on the CPU
        self.class_names: tuple[str, ...] = ()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.class_names = tuple(trainer.datamodule.class_names)  # type: ignore[attr-defined]
        matrix.check_class_names(self.class_names)

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.start("val", pl_module)

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.start("test", pl_module)

    def start(self, stage: str, pl_module: pl.LightningModule) -> None:
        if stage in self.stages:
            self.counts[stage] = ConfusionCounts(len(self.class_names), self.ignore_index).to(pl_module.device)

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *args: Any
    ) -> None:
        self.count("val", outputs)

    def on_test_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *args: Any) -> None:
        self.count("test", outputs)

    def count(self, stage: str, outputs: Any) -> None:
        if stage in self.stages:
            self.counts[stage].update(outputs["predicted"], outputs["targets"])

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking:
            due = (trainer.current_epoch + 1) % self.every_n_epochs == 0
            self.finish("val", trainer, pl_module, due)

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.finish("test", trainer, pl_module, due=True)
        self.save("test", trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking and is_best_so_far(trainer):
            self.save("val", trainer)

    def finish(self, stage: str, trainer: pl.Trainer, pl_module: pl.LightningModule, due: bool) -> None:
        if stage not in self.stages:
            return
        counts = self.counts[stage].compute().cpu()  # summed over all processes
        self.matrices[stage] = counts
        overall = matrix.overall_metrics(counts)
        del overall["accuracy"]  # the model logs it itself
        pl_module.log_dict({f"{stage}/{name}": value for name, value in overall.items()})
        if due and self.forms and trainer.is_global_zero:
            self.publish(stage, trainer, counts)

    def publish(self, stage: str, trainer: pl.Trainer, counts: Tensor) -> None:
        step = trainer.global_step
        key = f"confusion_matrix/{stage}"
        scalars = matrix.per_class_scalars(counts, self.class_names, stage)
        if "scalar" in self.forms:
            scalars |= matrix.cell_scalars(matrix.normalize(counts, self.normalize), self.class_names, key)
        log_scalars(trainer, scalars, step)
        if "image" in self.forms:
            from image_classifier.confusion import draw  # matplotlib is not needed before the first figure

            accuracy = matrix.overall_metrics(counts)["accuracy"]
            title = f"{stage}, epoch {trainer.current_epoch}, accuracy {accuracy:.2%}"
            figure = draw.draw_confusion_matrix(counts, self.class_names, self.normalize, title)
            log_image(trainer, key, draw.to_array(figure), step)

    def save(self, stage: str, trainer: pl.Trainer) -> None:
        if stage in self.matrices and trainer.is_global_zero:
            write_atomically(self.directory / f"{stage}.csv", matrix.to_csv(self.matrices[stage], self.class_names))


def is_best_so_far(trainer: pl.Trainer) -> bool:
    """Whether the checkpoint callback is about to keep this epoch as the best one."""
    checkpoint = trainer.checkpoint_callback
    if not isinstance(checkpoint, ModelCheckpoint) or checkpoint.monitor is None:
        return True
    return checkpoint.check_monitor_top_k(trainer, trainer.callback_metrics.get(checkpoint.monitor))
