"""A callback for tests: sends this process a real signal at a chosen moment of a training."""

import os
import signal
from pathlib import Path
from typing import Any

import pytorch_lightning as pl


class SignalAt(pl.Callback):
    """Sends a signal once.

    Args:
        moment: Name of a hook of a callback, such as on_train_batch_start.
        step: Optimizer steps that are done before.
        number: The signal.
        rank: Of the process that gets it; None for all.
    """

    def __init__(self, moment: str, step: int = 0, number: int = signal.SIGTERM, rank: int | None = None) -> None:
        self.number = number
        self.step = step
        self.rank = rank
        self.moment = moment
        self.sent = False

    def send(self, moment: str, trainer: pl.Trainer) -> None:
        if self.sent or moment != self.moment or trainer.sanity_checking or trainer.global_step < self.step:
            return
        self.sent = True
        Path(trainer.default_root_dir, "sent.txt").write_text(str(trainer.global_step))
        if self.rank in (None, trainer.global_rank):
            os.kill(os.getpid(), self.number)


def sender(moment: str) -> Any:
    return lambda self, trainer, *arguments, **settings: self.send(moment, trainer)


for name in vars(pl.Callback):  # of the class, for those of an object alone are overlooked by our shortcuts
    if name.startswith("on_") and "checkpoint" not in name:
        setattr(SignalAt, name, sender(name))
