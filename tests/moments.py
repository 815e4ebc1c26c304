"""Callbacks for tests: something happens to a training at a chosen moment, once."""

import gc
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl


class At(pl.Callback):
    """Does something once.

    Args:
        moment: Name of a hook of a callback, such as on_train_batch_start.
        step: Optimizer steps that are done before.
        rank: Of the process that it happens in; None for all.
    """

    def __init__(self, moment: str, step: int = 0, rank: int | None = None) -> None:
        self.step = step
        self.rank = rank
        self.moment = moment
        self.done = False

    def act(self, run_dir: Path) -> None:
        raise NotImplementedError

    def reach(self, moment: str, trainer: pl.Trainer) -> None:
        if self.done or moment != self.moment or trainer.sanity_checking or trainer.global_step < self.step:
            return
        self.done = True
        run_dir = Path(trainer.default_root_dir)
        (run_dir / "sent.txt").write_text(str(trainer.global_step))
        if self.rank in (None, trainer.global_rank):
            self.act(run_dir)


def reacher(moment: str) -> Any:
    return lambda self, trainer, *arguments, **settings: self.reach(moment, trainer)


for name in vars(pl.Callback):  # of the class, for those of an object alone are overlooked by our shortcuts
    if name.startswith("on_") and "checkpoint" not in name:
        setattr(At, name, reacher(name))


class SignalAt(At):
    """Sends this process a real signal."""

    def __init__(self, moment: str, step: int = 0, number: int = signal.SIGTERM, rank: int | None = None) -> None:
        super().__init__(moment, step, rank)
        self.number = number

    def act(self, run_dir: Path) -> None:
        os.kill(os.getpid(), self.number)


class FillAt(At):
    """Fills the disk up to the last byte, with a file of its own beside the run directory."""

    def act(self, run_dir: Path) -> None:
        with (run_dir.parent / "filler").open("wb", buffering=0) as file:
            for length in (2**16, 2**12, 1):
                try:
                    while True:
                        file.write(bytes(length))
                except OSError:
                    continue


class CommandAt(At):
    """Runs a command of the system, such as one that mounts a disk in another way."""

    def __init__(self, moment: str, command: Sequence[str], step: int = 0) -> None:
        super().__init__(moment, step)
        self.command = list(command)

    def act(self, run_dir: Path) -> None:
        subprocess.run(self.command, check=True)


class RemoveAt(At):
    """Removes the run directory."""

    def act(self, run_dir: Path) -> None:
        shutil.rmtree(run_dir)


class Leaks(pl.Callback):
    """Says what it was given where it should not.

    Args:
        moment: init or fit.
        token: What it says.
    """

    def __init__(self, moment: str, token: str) -> None:
        self.token = token
        if moment == "init":
            raise ValueError(f"the token {token} is refused")

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        raise RuntimeError(f"the token {self.token} is refused")


class Usage(pl.Callback):
    """Appends what the process takes after each epoch, or each training, to a file: memory, open files, threads.

    Args:
        path: A file of lines "bytes files threads".
        moment: on_train_epoch_end or on_fit_end.
    """

    def __init__(self, path: str, moment: str = "on_train_epoch_end") -> None:
        self.path = Path(path)
        self.moment = moment

    def note(self, moment: str) -> None:
        if moment == self.moment:
            gc.collect()  # what waits for Python's next look is no growth
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            files, threads = (sum(1 for _ in Path("/proc/self", name).iterdir()) for name in ("fd", "task"))
            with self.path.open("a") as file:
                file.write(f"{pages * os.sysconf('SC_PAGE_SIZE')} {files} {threads}\n")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.note("on_train_epoch_end")

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.note("on_fit_end")
