"""last.ckpt: written after every epoch, every few minutes within one, and when a signal asks the training to end."""

import re
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint

from image_classifier.engine import interruption
from image_classifier.engine.disk import require_room
from image_classifier.engine.training.best_checkpoint import BestCheckpoint, checkpoint_of_run, link_or_copy

COST = 0.01  # share of the time that may go into checkpoints within an epoch
LOOK = 1.0  # seconds between two moments at which several processes compare what they know
UNFINISHED = re.compile(r"\..+\.ckpt\.\d+")  # what AtomicCheckpointIO was writing when it was killed


class LastCheckpoint(Checkpoint):
    """Keeps where the training stands as `last.ckpt`; the file before stays until the new one is complete.

    While it trains, SIGINT and SIGTERM end it after its step, or after the validation that runs: `last.ckpt` is then
    of that very step. (A validation is not broken off, for its sums are no part of a checkpoint.)

    Args:
        dirpath: Directory of the checkpoints.
        every_minutes: Within an epoch, write one this often, but never for more than a hundredth of the time; None
            for the ends of epochs only.
        every_n_steps: Within an epoch, write one after every so many optimizer steps too.
    """

    def __init__(self, dirpath: str, *, every_minutes: float | None = 5.0, every_n_steps: int | None = None) -> None:
        self.path = Path(dirpath).absolute() / "last.ckpt"
        self.every_minutes = every_minutes
        self.every_n_steps = every_n_steps
        self.saved_at = 0.0  # of `monotonic`
        self.seconds = 0.0  # that the last one took to write
        self.holding = False
        self.looked_at = 0, 0.0  # step and time
        self.next_look = 0  # step

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if interruption.is_listening():
            # Lightning 2.6 would broadcast within a signal handler, which blocks for ever where the other processes
            # are in the middle of a step, and end with status 0.
            trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
        if trainer.is_global_zero and self.path.parent.is_dir():
            for path in self.path.parent.iterdir():
                if UNFINISHED.fullmatch(path.name):
                    path.unlink()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.require_room(trainer, pl_module)
        self.saved_at = time.monotonic()
        self.looked_at, self.next_look = (trainer.global_step, self.saved_at), trainer.global_step + 1
        self.hold()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        asked, _ = self.agree(trainer)
        if asked:  # the checkpoint of the epoch's end is there
            raise interruption.Interrupted(asked, after_step=True)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        due = bool(self.every_n_steps) and step % self.every_n_steps == 0  # type: ignore[operator]
        asked = 0
        if trainer.world_size == 1 or step >= self.next_look:
            asked, late = self.agree(trainer)
            due = due or late
        if (asked or due) and resumes_here(trainer):
            self.save(trainer)
            if asked:
                raise interruption.Interrupted(asked, after_step=True)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        best = checkpoint_of_run(trainer)
        same = best.saved_now(trainer) if isinstance(best, BestCheckpoint) else None
        self.save(trainer, same)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        asked, _ = self.agree(trainer)
        self.release()
        if asked:
            raise interruption.Interrupted(asked, after_step=True)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.release()

    def hold(self) -> None:
        if not self.holding:
            self.holding = True
            interruption.hold()

    def release(self) -> None:
        if self.holding:
            self.holding = False
            interruption.release()

    def save(self, trainer: pl.Trainer, same: Path | None = None) -> None:
        """Write the checkpoint, or take a file with the same content for it."""
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        start = time.monotonic()
        if same is None:
            trainer.save_checkpoint(self.path)
            self.seconds = time.monotonic() - start
        elif trainer.is_global_zero:
            link_or_copy(same, self.path)
        self.saved_at = time.monotonic()

    def require_room(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Room for best.ckpt, last.ckpt and the next one beside it, less what is there already."""
        there = [path.stat().st_size for path in self.path.parent.glob("*.ckpt") if path.stem in ("best", "last")]
        single = checkpoint_bytes(trainer, pl_module)
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            require_room(self.path.parent, max(single, 3 * single - sum(there)), "the checkpoints")

    def is_late(self) -> bool:
        """Whether the last checkpoint is as old as one may be."""
        if self.every_minutes is None:
            return False
        return time.monotonic() - self.saved_at >= max(60 * self.every_minutes, self.seconds / COST)

    def agree(self, trainer: pl.Trainer) -> tuple[int, bool]:
        """What all processes do at the end of this step: the signal that ends the training, or 0; whether to save."""
        asked, late = interruption.asked() or 0, self.is_late()
        if trainer.world_size == 1:
            return asked, late
        # A signal reaches the processes in different steps, and their clocks differ. They look at the same steps, about
        # once a second, which the first process measures.
        step, now = trainer.global_step, time.monotonic()
        pace = (now - self.looked_at[1]) / max(1, step - self.looked_at[0])
        steps = max(1, min(1000, int(LOOK / max(pace, 1e-6)))) if trainer.is_global_zero else 0
        known = torch.tensor([asked, late and trainer.is_global_zero, steps], device=trainer.strategy.root_device)
        torch.distributed.all_reduce(known, torch.distributed.ReduceOp.MAX)
        number, save, steps = (int(value) for value in known)
        self.looked_at, self.next_look = (step, now), step + (1 if number or save else steps)
        return number, bool(save)


def checkpoint_bytes(trainer: pl.Trainer, pl_module: pl.LightningModule) -> int:
    """About how large a checkpoint will be: the weights, and what the optimizers keep for each trained one."""
    total = sum(tensor.nbytes for tensor in pl_module.state_dict().values() if isinstance(tensor, torch.Tensor))
    for optimizer in trainer.optimizers:
        for group in optimizer.param_groups:
            copies = 2 if "betas" in group else bool(group.get("momentum"))
            total += copies * sum(parameter.nbytes for parameter in group["params"])
    return total


def resumes_here(trainer: pl.Trainer) -> bool:
    """Whether a checkpoint at the end of this batch resumes with the next one.

    Inside of accumulated gradients these would be lost. Before the end of an epoch or a validation, Lightning 2.6
    leaves both out when it resumes; the checkpoint of the epoch's end, or that of the next step, comes soon.
    """
    loop = trainer.fit_loop.epoch_loop
    fetcher = trainer.fit_loop._data_fetcher
    assert fetcher is not None
    return not (loop._should_accumulate() or loop._is_training_done or loop._should_check_val_fx(fetcher))
