"""The confusion matrix of every validation epoch and of the test, in the chosen forms, in every logger."""

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor

from image_classifier.engine.confusion import matrix
from image_classifier.engine.confusion.counts import ConfusionCounts
from image_classifier.engine.errors import UserError
from image_classifier.engine.loggers.base import group_curves, log_image, log_matrix, log_matrix_chart, log_scalars
from image_classifier.engine.runs.results import Results
from image_classifier.engine.terminal import say
from image_classifier.engine.training.best_checkpoint import checkpoint_of_run
from image_classifier.engine.training.stages import Outputs, StageCallback, ignored_label

CHART_CLASSES = 15  # most confused classes in the interactive chart of a matrix above `max_cells`


class ConfusionMatrixCallback(StageCallback):
    """Counts, logs and saves the confusion matrix.

    Args:
        run_dir: Raw counts are saved to `<run_dir>/confusion_matrix/<stage>.csv`; for validation those of
            the best epoch.
        forms: Any of "image" (a picture), "scalar" (one scalar per cell), "table" and "chart" (interactive, always
            of counts; a logger without one gets the picture); empty logs nothing.
        normalize: "none", "true" (rows sum to 1), "pred" (columns sum to 1), "all", or several of them: then raw
            counts keep their keys and the others go under `confusion_matrix_normalized_<mode>/<stage>`.
        every_n_epochs: Validation epochs between two logged matrices; counting goes on in every epoch.
        stages: Any of "val" and "test".
        ignore_index: Samples with this target are not counted; None for the model's.
        max_cells: With more cells, scalars and tables hold the diagonal and the largest confusions only.
        top_confusions: How many of them.
        results: Takes the last counts of each stage.
    """

    def __init__(
        self,
        run_dir: str,
        *,
        forms: Sequence[str] = ("image",),
        normalize: matrix.Normalization | Sequence[matrix.Normalization] = "none",
        every_n_epochs: int = 1,
        stages: Sequence[str] = ("val", "test"),
        ignore_index: int | None = None,
        max_cells: int = 2500,
        top_confusions: int = 50,
        results: Results | None = None,
    ) -> None:
        super().__init__(stages)
        self.run_dir = run_dir
        self.forms = tuple(forms)
        self.modes = normalizations(normalize)
        self.every_n_epochs = every_n_epochs
        self.ignore_index = ignore_index
        self.max_cells = max_cells
        self.top_confusions = top_confusions
        self.counts: dict[str, ConfusionCounts] = {}
        self.results = results or Results()
        self.cells: dict[str, list[tuple[int, int]]] = {}  # of each stage, once chosen: the same keys through a run
        self.said: set[str] = set()

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.results.class_names

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.results.class_names = tuple(trainer.datamodule.class_names)  # type: ignore[attr-defined]
        try:
            matrix.check_class_names(self.class_names)
        except ValueError as error:
            raise UserError(f"{error}; rename one of them in the data set") from None

    def start(self, stage: str, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        ignored = ignored_label(pl_module) if self.ignore_index is None else self.ignore_index
        self.counts[stage] = ConfusionCounts(len(self.class_names), ignored).to(pl_module.device)

    def collect(self, stage: str, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Outputs) -> None:
        self.counts[stage].update(outputs.predicted, outputs.targets)

    def finish(self, stage: str, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        counts = self.results.counts[stage] = self.counts[stage].compute().cpu()  # summed over all processes
        overall = matrix.overall_metrics(counts)
        accuracy = overall.pop("accuracy")  # EpochMetrics logs it
        pl_module.log_dict({f"{stage}/{name}": value for name, value in overall.items()})
        due = stage == "test" or (trainer.current_epoch + 1) % self.every_n_epochs == 0
        if due and self.forms and trainer.is_global_zero:
            self.publish(stage, trainer, counts, accuracy)
        if stage == "test":
            self.save(stage, trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking and is_best_so_far(trainer):
            self.save("val", trainer)

    def publish(self, stage: str, trainer: pl.Trainer, counts: Tensor, accuracy: float) -> None:
        """Log the counts in all forms."""
        if not self.said:
            group_curves(trainer, curve_groups(self.stages))
            self.said.add("curves")
        step, names = trainer.global_step, self.class_names
        if stage not in self.cells:
            self.cells[stage] = matrix.shown_cells(counts, self.max_cells, self.top_confusions)
        cells = self.cells[stage]
        if len(cells) < len(names) ** 2 and self.forms != ("image",):
            self.say(
                f"{len(names)} x {len(names)} cells are more than confusion_matrix.max_cells={self.max_cells}; "
                f"scalar and table hold the diagonal and the {self.top_confusions} largest confusions at first, "
                f"chart the {CHART_CLASSES} most confused classes"
            )
        scalars = matrix.per_class_scalars(counts, names, stage)
        for mode in self.modes:
            infix = self.infix(mode)
            values = matrix.normalize(counts, mode)
            if "scalar" in self.forms:
                scalars |= matrix.cell_scalars(values, names, f"confusion_matrix{infix}/{stage}", cells)
            if "table" in self.forms:
                table = matrix.nested_table(values, names, cells)
                beside = {"epoch": epoch_number(trainer), "acc": accuracy}
                log_matrix(trainer, f"confusion_matrix_table{infix}/{stage}", table, beside, step)
        log_scalars(trainer, scalars, step)
        title = f"{stage}, epoch {epoch_number(trainer)}" if stage == "val" else stage
        self.publish_pictures(stage, trainer, counts, f"{title}, accuracy {accuracy:.2%}")

    def publish_pictures(self, stage: str, trainer: pl.Trainer, counts: Tensor, title: str) -> None:
        """Log the chart where there is one, and the picture where it is wanted or stands in for the chart."""
        wanted, loggers = "image" in self.forms, trainer.loggers
        if "chart" in self.forms:
            without = self.publish_chart(stage, trainer, counts, title)
            if not wanted:
                wanted, loggers = bool(without) or not trainer.loggers, without
        if wanted:
            from image_classifier.engine.figures.confusion_matrix import draw_confusion_matrix  # slow to import

            for mode in self.modes:
                picture = draw_confusion_matrix(counts, self.class_names, mode, title)
                log_image(trainer, f"confusion_matrix{self.infix(mode)}/{stage}", picture, trainer.global_step, loggers)

    def publish_chart(self, stage: str, trainer: pl.Trainer, counts: Tensor, title: str) -> list[Any]:
        """Log the interactive chart; returns the loggers that have none."""
        chosen = list(range(len(counts)))
        if len(counts) ** 2 > self.max_cells:
            chosen = matrix.most_confused_classes(counts, CHART_CLASSES) or chosen[:CHART_CLASSES]
        cells = [(true, predicted) for true in chosen for predicted in chosen]
        table = matrix.nested_table(counts, self.class_names, cells)
        without = log_matrix_chart(trainer, f"confusion_matrix_chart/{stage}", table, title, trainer.global_step)
        if without or not trainer.loggers:
            who = f"in {', '.join(type(logger).__name__ for logger in without)}" if without else "without a logger"
            self.say(f"no interactive chart {who}: the picture takes its place")
        return without

    def infix(self, mode: matrix.Normalization) -> str:
        """What keeps the keys of several normalisations apart."""
        return "" if mode == "none" or len(self.modes) == 1 else f"_normalized_{mode}"

    def say(self, message: str) -> None:
        """Print a message the first time."""
        if message not in self.said:
            self.said.add(message)
            say(f"Confusion matrix: {message}")

    def state_dict(self) -> dict[str, Any]:
        """The chosen cells, so that a resumed run logs the same keys."""
        return {"cells": {stage: torch.tensor(cells) for stage, cells in self.cells.items()}}  # (N, 2) int64

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.cells = {
            stage: [(true, predicted) for true, predicted in torch.as_tensor(cells).tolist()]  # lists in earlier ones
            for stage, cells in state_dict["cells"].items()
        }

    def save(self, stage: str, trainer: pl.Trainer) -> None:
        if stage in self.stages and trainer.is_global_zero:
            self.results.save_counts(self.run_dir, stage)


def normalizations(setting: Any) -> tuple[matrix.Normalization, ...]:
    """One mode or several, as YAML has them: it reads true as a boolean and null as nothing."""
    modes = setting if isinstance(setting, Sequence) and not isinstance(setting, str) else [setting]
    return tuple("true" if mode is True else "none" if mode is None else mode for mode in modes)


def curve_groups(stages: Sequence[str]) -> dict[str, dict[str, str]]:
    """Precision, recall and F1 of all classes in a chart each, by stage."""
    return {
        f"per class, {stage}": {figure: f"per_class/{stage}/{figure}/.*" for figure in matrix.FIGURES}
        for stage in stages
    }


def epoch_number(trainer: pl.Trainer) -> int:
    """The running epoch from 1; after the training the last one."""
    return trainer.current_epoch + (trainer.state.fn == TrainerFn.FITTING)


def is_best_so_far(trainer: pl.Trainer) -> bool:
    """Whether the checkpoint callback is about to keep this epoch as the best one."""
    checkpoint = checkpoint_of_run(trainer)
    if trainer.state.fn != TrainerFn.FITTING:
        return False
    if not isinstance(checkpoint, ModelCheckpoint) or checkpoint.monitor is None or checkpoint.best_model_score is None:
        return True
    current, best = trainer.callback_metrics.get(checkpoint.monitor), checkpoint.best_model_score
    return current is not None and bool(current < best if checkpoint.mode == "min" else current > best)
