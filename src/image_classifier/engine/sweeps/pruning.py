"""Stopping a job of an Optuna sweep that falls behind the others."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import pytorch_lightning as pl
from optuna.exceptions import UpdateFinishedTrialError
from optuna.pruners import BasePruner
from optuna.trial import Trial, TrialState
from pytorch_lightning.trainer.states import TrainerFn

from image_classifier.engine.errors import UserError
from image_classifier.engine.sweeps.jobs import write_record

log = logging.getLogger(__name__)


class PruningCallback(pl.Callback):
    """Reports the monitored metric after every validation, and stops training when the pruner says so.

    The trial is the sweeper's: it stays running here, and the sweeper completes it with the best value so far.
    In distributed training only the first process talks to the study.

    Args:
        pruner: Decides.
        monitor: The metric to report.
        study_name: Name of the sweeper's study; None outside of a sweep.
        storage: URL of the study's storage; the same.
        overrides: Overrides of this job, by which its trial is found.
        mode: Hydra's `RunMode`, or its name: "MULTIRUN" in a sweep; anything else prunes nothing.
    """

    def __init__(
        self,
        pruner: BasePruner,
        *,
        monitor: str,
        study_name: str | None,
        storage: str | None,
        overrides: Sequence[str],
        mode: Any,
    ) -> None:
        self.pruner = pruner
        self.monitor = monitor
        self.study_name = study_name
        self.storage = storage
        self.overrides = list(overrides)
        self.in_sweep = getattr(mode, "name", mode) == "MULTIRUN"
        self.trial: Trial | None = None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self.in_sweep or not trainer.is_global_zero:
            return
        assert self.storage is not None, "a sweep has a study"
        study = optuna.load_study(study_name=self.study_name, storage=self.storage, pruner=self.pruner)
        if len(study.directions) > 1:
            raise UserError(f"expected one objective to prune by but found {len(study.directions)}; add pruning=none")
        self.trial = find_trial(study, self.overrides)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self.in_sweep or trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        if trainer.strategy.broadcast(self.falls_behind(trainer)):
            trainer.should_stop = True

    def falls_behind(self, trainer: pl.Trainer) -> bool:
        if self.trial is None or self.monitor not in trainer.callback_metrics:
            return False
        epochs = trainer.current_epoch + 1
        try:
            self.trial.report(float(trainer.callback_metrics[self.monitor]), epochs)
        except UpdateFinishedTrialError:  # the sweep was killed and started again; a new trial waits for this job
            self.trial = None
            return False
        if not self.trial.should_prune() or epochs == trainer.max_epochs:
            return False
        log.info(f"Pruned after {epochs} epochs")
        write_record(Path(trainer.default_root_dir), self.overrides, pruned_after_epochs=epochs)
        return True


def find_trial(study: optuna.Study, overrides: Sequence[str]) -> Trial | None:
    """The newest running trial whose parameters are among a job's overrides."""
    given = set(overrides)
    for trial in reversed(study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))):
        if trial.params and given.issuperset(f"{name}={value}" for name, value in trial.params.items()):
            return Trial(study, trial._trial_id)
    return None
