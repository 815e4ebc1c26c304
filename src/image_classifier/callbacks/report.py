"""Remembers the course of the training and writes the report of the run."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from image_classifier.engine.interruption import Interrupted
from image_classifier.engine.runs.provenance import git_commit, within_project
from image_classifier.engine.runs.results import Results

TRAINING_CURVES = ("train/loss", "train/acc")
VALIDATION_CURVES = ("val/loss", "val/acc")
LEARNING_RATES_AN_EPOCH = 20


class Report(pl.Callback):
    """Writes `<run_dir>/report/report.html` and its pictures when the run is over, or a signal ended it.

    The curves lie in the checkpoints, so those of a resumed run show the epochs before it too.

    Args:
        run_dir: Run directory; its `config.yaml` and `confusion_matrix/*.csv` are shown.
        results: Holds the gallery and the reliability diagram.
    """

    def __init__(self, run_dir: str, *, results: Results | None = None) -> None:
        self.run_dir = Path(run_dir)
        self.results = results or Results()
        self.results.at_end.append(self.write)
        self.epochs: list[dict[str, float]] = []
        self.learning_rates: list[list[float]] = []  # pairs of epochs done and learning rate

    def state_dict(self) -> dict[str, Any]:
        return {"epochs": self.epochs, "learning_rates": self.learning_rates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if not self.epochs:  # testing loads the best checkpoint, which knows nothing of the epochs after it
            self.epochs = state_dict["epochs"]
            self.learning_rates = state_dict["learning_rates"]

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        batches = int(trainer.num_training_batches)
        if batch_idx % max(1, batches // LEARNING_RATES_AN_EPOCH) == 0 or batch_idx == batches - 1:
            done = trainer.current_epoch + batch_idx / batches
            self.learning_rates.append([done, float(trainer.optimizers[0].param_groups[0]["lr"])])

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        self.remember(trainer.current_epoch + 1, trainer.callback_metrics, VALIDATION_CURVES)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.remember(trainer.current_epoch + 1, trainer.callback_metrics, TRAINING_CURVES)

    def remember(self, epoch: int, figures: Mapping[str, Any], names: Sequence[str]) -> None:
        """Add those figures that are there to the row of an epoch; 1 is the first."""
        values = {name: float(figures.get(name, math.nan)) for name in names}
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        if finite and (not self.epochs or self.epochs[-1]["epoch"] < epoch):
            self.epochs.append({"epoch": epoch})
        if finite and self.epochs[-1]["epoch"] == epoch:
            self.epochs[-1] |= finite

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        if isinstance(exception, KeyboardInterrupt | Interrupted) and trainer.is_global_zero and self.epochs:
            last = {name: value for name, value in self.epochs[-1].items() if name != "epoch"}
            self.write(trainer, last | {"epochs": trainer.current_epoch})

    def write(self, trainer: pl.Trainer, metrics: Mapping[str, float]) -> Path:
        """Write the report.

        Args:
            trainer: Of the run.
            metrics: The final figures; a stage without any is left out, whatever an earlier run left behind.

        Returns:
            The path of the page.
        """
        from image_classifier.engine.figures.report import draw_learning_curves
        from image_classifier.engine.runs.page import read_matrices, write_report

        stages = [stage for stage in ("val", "test") if any(name.startswith(f"{stage}/") for name in metrics)]
        configuration = self.run_dir / "config.yaml"
        return write_report(
            self.run_dir / "report",
            title=self.run_dir.name,
            metrics=metrics,
            matrices=read_matrices(self.run_dir, stages),
            curves=draw_learning_curves(self.epochs, self.learning_rates) if self.epochs else None,
            gallery=self.results.galleries,
            calibration=self.results.reliability,
            facts={
                "command": self.results.command,
                "git commit": git_commit(),
                "run directory": within_project(self.run_dir),
            },
            configuration=configuration.read_text() if configuration.is_file() else "",
        )
