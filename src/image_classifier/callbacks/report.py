"""Remembers the course of the training and writes the report of the run."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from image_classifier.engine.errors import UserError
from image_classifier.engine.interruption import Interrupted
from image_classifier.engine.loggers.base import log_page
from image_classifier.engine.runs.page import PICTURES, SAMPLES, save_course, write_report
from image_classifier.engine.runs.provenance import git_commit, within_project
from image_classifier.engine.runs.results import Results
from image_classifier.engine.runs.sample_table import read_table
from image_classifier.engine.runs.thumbnails import choose_samples, make_atlas, save_atlas

TRAINING_CURVES = ("train/loss", "train/acc")
VALIDATION_CURVES = ("val/loss", "val/acc")
LEARNING_RATES_AN_EPOCH = 20


class Report(pl.Callback):
    """Writes `<run_dir>/report/report.html` when the run is over, or a signal ended it.

    The page is made from the run directory alone: this callback adds the course of the training, and small pictures of
    samples that it chooses from the tables of predictions. The curves lie in the checkpoints, so those of a resumed
    run show the epochs before it too.

    Args:
        run_dir: Run directory.
        pictures: Small pictures of samples in the page, of all stages together; 2,000 of 28 x 28 take 1 MB.
        samples: Samples of a stage that the page holds one by one; of more, a random choice.
        png: Write the matrices and the learning curves as PNG files, too.
        results: Knows the command, and calls for the report at the end.
    """

    def __init__(
        self,
        run_dir: str,
        *,
        pictures: int = PICTURES,
        samples: int = SAMPLES,
        png: bool = True,
        results: Results | None = None,
    ) -> None:
        for name, value in (("pictures", pictures), ("samples", samples)):
            if not 0 <= value <= 1_000_000:
                raise UserError(
                    f"expected callbacks.report.{name} to be a number from 0 to 1000000 but found {value}; "
                    f"for example callbacks.report.{name}=2000"
                )
        self.run_dir = Path(run_dir)
        self.pictures = pictures
        self.samples = samples
        self.png = png
        self.results = results or Results()
        self.results.of_best.append(self.take_best)
        self.results.at_end.append(self.write)
        self.epochs: list[dict[str, float]] = []
        self.learning_rates: list[list[float]] = []  # pairs of epochs done and learning rate
        self.best_epoch: int | None = None  # 1 is the first; known once the training is over

    def state_dict(self) -> dict[str, Any]:
        rates = torch.tensor(self.learning_rates, dtype=torch.float64)  # (N, 2), soon thousands
        return {"epochs": self.epochs, "learning_rates": rates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if not self.epochs:  # testing loads the best checkpoint, which knows nothing of the epochs after it
            self.epochs = state_dict["epochs"]
            self.learning_rates = torch.as_tensor(state_dict["learning_rates"]).tolist()  # lists in earlier checkpoints

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

    def remember(self, epoch: int, metrics: Mapping[str, Any], names: Sequence[str]) -> None:
        """Add those metrics that are there to the row of an epoch; 1 is the first."""
        values = {name: float(metrics.get(name, math.nan)) for name in names}
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        if finite and (not self.epochs or self.epochs[-1]["epoch"] < epoch):
            self.epochs.append({"epoch": epoch})
        if finite and self.epochs[-1]["epoch"] == epoch:
            self.epochs[-1] |= finite

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        if isinstance(exception, KeyboardInterrupt | Interrupted) and trainer.is_global_zero and self.epochs:
            last = {name: value for name, value in self.epochs[-1].items() if name != "epoch"}
            self.write(trainer, last | {"epochs": trainer.current_epoch})

    def take_best(self, trainer: pl.Trainer, checkpoint: Mapping[str, Any]) -> None:
        """Which epoch the best checkpoint is of: two epochs may have the same matrix."""
        self.best_epoch = int(checkpoint["epoch"]) + 1

    def write(self, trainer: pl.Trainer, metrics: Mapping[str, float]) -> Path:
        """Write the report and give it to the loggers.

        Args:
            trainer: Of the run.
            metrics: The final ones; a stage without any is left out, whatever an earlier run left behind.

        Returns:
            The path of the page.
        """
        facts = {
            "command": self.results.command,
            "git commit": git_commit(),
            "run directory": within_project(self.run_dir),
        }
        save_course(
            self.run_dir,
            metrics=metrics,
            epochs=self.epochs,
            learning_rates=self.learning_rates,
            facts=facts,
            best_epoch=self.best_epoch,
        )
        stages = [stage for stage in ("val", "test") if any(name.startswith(f"{stage}/") for name in metrics)]
        for stage in stages:
            self.keep_pictures(stage, trainer.datamodule, self.pictures // len(stages))  # type: ignore[attr-defined]
        page = write_report(self.run_dir, self.samples, png=self.png, tables=self.results.tables)
        log_page(trainer, "report", page)
        return page

    def keep_pictures(self, stage: str, datamodule: Any, limit: int) -> None:
        """Choose samples of a stage and keep small pictures of them."""
        names = tuple(datamodule.class_names)
        table = self.results.tables.get(stage) or read_table(self.run_dir, stage, names)
        if table is None:
            return
        sources = datamodule.sample_names(stage)
        positions = None if sources is None else {name: index for index, name in enumerate(sources)}

        def read(rows: np.ndarray) -> np.ndarray:
            samples = [table.samples[row] for row in rows]
            indices = [int(name) if positions is None else positions[name] for name in samples]
            return datamodule.stored_images(stage, torch.tensor(indices)).numpy()

        save_atlas(self.run_dir, stage, make_atlas(choose_samples(table, limit), read))
