"""The best checkpoint of a run: best.ckpt, whatever is kept beside it, and wherever the run is resumed."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor

from image_classifier.engine.errors import UserError
from image_classifier.engine.terminal import say

NUMBERED = "epoch_{epoch}_step_{step}"


class BestCheckpoint(ModelCheckpoint):
    """Keeps the epoch with the best monitored metric as `best.ckpt`, after every validation that made it.

    With `save_top_k` other than 1 the others lie beside it as `epoch_<n>_step_<m>.ckpt`, and `best.ckpt` is the best
    of them. A resumed run knows the earlier best, also in another, a copied or a moved run directory: what the
    checkpoint remembers is looked for by name and content, and copied.

    Args:
        dirpath: Directory of the checkpoints.
        filename: As in ModelCheckpoint; the default fits any `save_top_k`.
        settings: Arguments of ModelCheckpoint.
    """

    def __init__(self, dirpath: str, filename: str | None = None, *, save_top_k: int = 1, **settings: Any) -> None:
        if settings.get("monitor") and (settings.get("every_n_train_steps") or settings.get("train_time_interval")):
            raise UserError(
                "expected the best checkpoint to be saved when the metric that picks it was measured, after a "
                "validation, but found every_n_train_steps or train_time_interval; validate more often "
                "(+trainer.val_check_interval=0.25), or save for a resume (callbacks.last_checkpoint.every_minutes=1)"
            )
        single = save_top_k in (0, 1) and filename is None
        name = "best" if single else filename or NUMBERED
        super().__init__(
            dirpath,
            name if single or "{" in name else f"{name}_{NUMBERED}",  # several files never share one name
            save_top_k=save_top_k,
            auto_insert_metric_name=False,
            enable_version_counter=False,  # best.ckpt stays best.ckpt after a resume
            **settings,
        )
        self.validated_step: int | None = None  # optimizer step of the last validation; None before any training
        self.validated_weights: list[float] | None = None  # the fingerprint of those
        self.resumed_from: Path | None = None
        self.saved_at: tuple[int, Path] | None = None  # step and file, of what was saved at the end of an epoch

    @property
    def best_path(self) -> Path | None:
        """`best.ckpt`, once there is one."""
        path = self.own_path("best.ckpt")
        return path if self.best_model_path and path.is_file() else None

    def own_path(self, name: str) -> Path:
        assert self.dirpath is not None
        return Path(self.dirpath) / name

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        # Inside an epoch there is no other moment than the end of the validation. At its end the state that resumes
        # exactly is that of the epoch's end; Lightning would not save there when only some epochs are validated.
        self._save_on_train_epoch_end = ends_each_epoch(trainer)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self.validated_step = -1

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if batch_idx == 0 and trainer.state.fn == "fit":  # here averaged weights are in their place
            self.validated_weights = fingerprint(pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking:
            self.validated_step = trainer.global_step
        super().on_validation_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.monitor is None or self.validated_step == trainer.global_step:  # the metric is of these weights
            before = self._last_global_step_saved
            super().on_train_epoch_end(trainer, pl_module)
            if self._last_global_step_saved != before:
                self.saved_at = trainer.global_step, Path(self._last_checkpoint_saved)

    def saved_now(self, trainer: pl.Trainer) -> Path | None:
        """The file that holds all that a checkpoint holds now, at the end of an epoch; None if there is none."""
        one_file = type(trainer.strategy) in (SingleDeviceStrategy, DDPStrategy)  # others may write a directory
        if self.saved_at is None or self.saved_at[0] != trainer.global_step or self.save_weights_only or not one_file:
            return None
        return self.saved_at[1]

    def consider(self, trainer: pl.Trainer) -> None:
        """Compare weights that were validated after the training with the best so far."""
        candidates = self._monitor_candidates(trainer)
        self._save_topk_checkpoint(trainer, candidates)

    def has_seen(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> bool:
        """Whether the weights are those that were validated last; True when nothing was trained."""
        if self.validated_step is None:
            return True
        seen = self.validated_weights == fingerprint(pl_module)
        return trainer.strategy.reduce_boolean_decision(seen, all=True)

    def _save_checkpoint(self, trainer: pl.Trainer, filepath: str) -> None:
        if self.save_weights_only:
            save_for_use(trainer, filepath)
            self._last_global_step_saved, self._last_checkpoint_saved = trainer.global_step, filepath
            for logger in trainer.loggers if trainer.is_global_zero else ():
                logger.after_save_checkpoint(self)
        else:
            super()._save_checkpoint(trainer, filepath)
        best = Path(self.best_model_path)
        if trainer.is_global_zero and best.name != "best.ckpt" and best.is_file():
            link_or_copy(best, self.own_path("best.ckpt"))

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self.resumed_from = Path(str(trainer.ckpt_path)).absolute()
        if trainer.is_global_zero:
            state = checkpoint["callbacks"].get(self.state_key) or {}
            self.bring(state, checkpoint["global_step"])
        trainer.strategy.barrier("earlier checkpoints are in their place")

    def bring(self, state: dict[str, Any], step: int) -> None:
        """Copy the checkpoints that a state remembers into this run's directory, and keep no others of their names."""
        here, expected = self.own_path(""), scores_of(state)
        earlier = [here, self.resumed_from.parent if self.resumed_from else here, Path(str(state.get("dirpath", here)))]
        here.mkdir(parents=True, exist_ok=True)
        for path, score in expected.items():
            name = Path(path).name
            found = next((place / name for place in earlier if self.holds(place / name, score)), None)
            if found is not None and found.parent != here:
                self.set_aside(here / name, step)
                link_or_copy(found, here / name)
            elif found is None:
                self.set_aside(here / name, step)
        best = Path(str(state.get("best_model_path", ""))).name
        if best and best != "best.ckpt" and (here / best).is_file():
            link_or_copy(here / best, here / "best.ckpt")
        elif not expected:
            self.set_aside(here / "best.ckpt", step)

    def holds(self, path: Path, score: Tensor) -> bool:
        """Whether a file is the checkpoint with this score."""
        try:
            metrics = torch.load(path, map_location="meta", weights_only=True, mmap=True)["metrics"]
        except Exception:  # not there, cut off, or none of ours
            return False
        return self.monitor is None or metrics.get(self.monitor) == float(score)

    def set_aside(self, path: Path, step: int) -> None:
        """Keep a checkpoint of another course of the run under another name, for the next best would replace it."""
        if path.is_file() and path != self.resumed_from:
            kept = next(
                place
                for number in range(1, 10_000)
                if not (place := path.with_name(f"{path.stem}_before_resume_{number}.ckpt")).exists()
            )
            path.rename(kept)
            say(f"{path.name} is not of the run that is resumed at step {step}: kept as {kept.name}")

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the scores of those earlier checkpoints that are here now."""
        here = {str(self.own_path(Path(path).name)): score for path, score in scores_of(state_dict).items()}
        self.best_k_models = {path: score for path, score in here.items() if Path(path).is_file()}
        if len(self.best_k_models) < len(here):
            gone = ", ".join(Path(path).name for path in here if path not in self.best_k_models)
            say(f"Earlier checkpoints are gone ({gone}): the best is chosen from here on")
        if self.monitor is None:
            path = str(self.own_path(Path(state_dict["best_model_path"]).name))
            self.best_model_path = path if Path(path).is_file() else ""
        if not self.best_k_models:
            return
        worst, best = (max, min) if self.mode == "min" else (min, max)
        self.kth_best_model_path = worst(self.best_k_models, key=lambda path: float(self.best_k_models[path]))
        self.kth_value = self.best_k_models[self.kth_best_model_path]
        self.best_model_path = best(self.best_k_models, key=lambda path: float(self.best_k_models[path]))
        self.best_model_score = self.best_k_models[self.best_model_path]


def checkpoint_of_run(trainer: pl.Trainer) -> Any:
    """The callback whose best checkpoint the run is judged by: the project's, else the first; None without any."""
    own = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, BestCheckpoint)]
    return own[0] if own else trainer.checkpoint_callback


def ends_each_epoch(trainer: Any) -> bool:
    """Whether validations come at the end of epochs only. An interval of 1.0 is an epoch, one of 1 is a batch."""
    interval = trainer.val_check_interval
    return isinstance(interval, float) and interval == 1.0 and trainer._val_check_time_interval is None


def save_for_use(trainer: pl.Trainer, path: str) -> None:
    """Save what evaluation, prediction and export need. Lightning's `weights_only` leaves out the recipe, too."""
    checkpoint = trainer._checkpoint_connector.dump_checkpoint()
    for of_the_training in ("optimizer_states", "lr_schedulers"):
        checkpoint.pop(of_the_training, None)
    trainer.strategy.save_checkpoint(checkpoint, path)
    trainer.strategy.barrier("a checkpoint without the state of the training")


def fingerprint(model: torch.nn.Module) -> list[float]:
    """A number for each parameter, which changes when the parameter does."""
    precise = torch.float32 if torch.backends.mps.is_available() else torch.float64
    sums = [parameter.detach().sum(dtype=precise) for parameter in model.parameters()]
    return torch.stack(sums).tolist() if sums else []


def scores_of(state: dict[str, Any]) -> dict[str, Tensor]:
    """Scores of the checkpoints that a callback's state remembers, by path."""
    return dict(state.get("best_k_models") or {})


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`, never a half one."""
    staging = target.with_name(f".{target.name}.{os.getpid()}")
    staging.unlink(missing_ok=True)
    try:
        try:
            os.link(source, staging)
        except OSError:  # another file system, or one without links
            shutil.copyfile(source, staging)
        staging.replace(target)
    finally:
        staging.unlink(missing_ok=True)
