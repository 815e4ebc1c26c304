"""An optimizer step of a tiny network through the pipeline, beyond the same step in a bare loop.

python benchmarks/step.py [blocks]

What is left of a step when the network costs nearly nothing: 784-32-10 at batch 32. Blocks of 50 steps of the two take
turns within one fit, and only the CPU time of the main thread counts, so that other work of the machine hits both.
Callbacks, loggers, schedule, precision and optimizer are those of train.py by default; the bare loop has the same
network, images, precision and optimizer, but no schedule and no log.
"""

from common import Row, ratio, write_results

# isort: split
import contextlib
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from unittest.mock import patch

import pytorch_lightning as pl
import torch
from epoch import LIGHTNING_ALONE, TINY_NETWORK, BareLoop, fit
from torch import Tensor

from image_classifier.engine.training import shortcuts

BLOCKS = 40
BLOCK = 50  # steps
ROUNDS = 3  # in which all cases take turns
DRIVER_CHECK = "PYTORCH_NVML_BASED_CUDA_CHECK"  # set by Lightning when it is imported, so not there in a bare loop


class InTurn(pl.Callback):
    """Runs a block of the bare loop after each block of the pipeline, and times both."""

    def __init__(self, bare: BareLoop, blocks: int) -> None:
        self.bare = bare
        self.blocks = blocks
        self.batches = self.endless()
        self.pairs: list[tuple[float, float]] = []  # microseconds a step: pipeline, bare loop
        self.started: float | None = None

    def endless(self) -> Iterator[Tensor]:
        indices = self.bare.datamodule.train_indices
        while True:
            yield from indices[torch.randperm(len(indices))].split(self.bare.batch_size)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.bare.use(trainer.optimizers[0])
        self.bare.net.train()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % BLOCK:
            return
        ours = None if self.started is None else time.thread_time() - self.started
        with bare_environment():
            start = time.thread_time()
            for _ in range(BLOCK):
                self.bare.step(next(self.batches))
            bare = time.thread_time() - start
        if ours is not None:
            self.pairs.append((ours / BLOCK * 1e6, bare / BLOCK * 1e6))
        trainer.should_stop = len(self.pairs) >= self.blocks
        self.started = time.thread_time()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.started = None  # the block before held a validation


@contextlib.contextmanager
def bare_environment() -> Iterator[None]:
    found = os.environ.pop(DRIVER_CHECK, None)
    yield
    if found is not None:
        os.environ[DRIVER_CHECK] = found


# Each trick of shortcuts.py taken back alone.
WITHOUT: dict[str, Callable[[], contextlib.AbstractContextManager[object]]] = {
    "the short loop": lambda: patch.object(shortcuts, "make_plan", lambda trainer: None),
    "sparing the optimizer a search for a driver": lambda: patch.object(shortcuts, "look_for_no_driver", lambda: None),
}


def measure(overrides: tuple[str, ...], blocks: int) -> list[tuple[float, float]]:
    os.environ[DRIVER_CHECK] = "1"
    callback = fit(
        lambda cfg, datamodule: InTurn(BareLoop(cfg, datamodule), blocks),
        *TINY_NETWORK,
        "trainer.max_epochs=100",
        "test=false",
        *overrides,
    )
    assert isinstance(callback, InTurn)
    return callback.pairs


def main(blocks: int = BLOCKS) -> list[Row]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a second one is of no use here, and its waiting would be counted
    cases: dict[str, tuple[tuple[str, ...], Callable[[], contextlib.AbstractContextManager[object]]]] = {
        "pipeline": ((), contextlib.nullcontext),
        "pipeline without a schedule": (("model.scheduler=null",), contextlib.nullcontext),
        "pipeline, shortcuts=false": (("shortcuts=false",), contextlib.nullcontext),
        "Lightning without validation, callbacks and logger": (
            (*LIGHTNING_ALONE, "shortcuts=false"),
            contextlib.nullcontext,
        ),
        **{f"pipeline without {trick}": ((), patched) for trick, patched in WITHOUT.items()},
    }
    pairs: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
    for _ in range(ROUNDS):
        for name, (overrides, patched) in cases.items():
            with patched():
                pairs[name] += measure(overrides, blocks)
    torch.set_num_threads(threads)
    rows = [relative(pairs["pipeline"]), *(row(name, measured) for name, measured in pairs.items())]
    write_results("step", rows)
    return rows


def relative(pairs: list[tuple[float, float]]) -> Row:
    """What holds on any machine: 200 us beyond a bare loop whose step takes 441 us (`REFERENCE_STEP`)."""
    value, note = ratio([(ours / 1e6, bare / 1e6) for ours, bare in pairs])
    question = "step of 784-32-10 at batch 32: pipeline against a bare loop"
    return Row(question, value, "x", 1.45, samples=len(pairs), note=note)


def row(name: str, pairs: list[tuple[float, float]]) -> Row:
    ours, bare = (statistics.median(column) for column in zip(*pairs, strict=True))
    beyond = [first - second for first, second in pairs]
    low, _, high = statistics.quantiles(beyond, n=4)
    note = f"{ours:.0f} us against {bare:.0f} us; middle half {low:.0f} to {high:.0f} us"
    target = 200 if name == "pipeline" else None
    question = f"step of 784-32-10 at batch 32: {name}, beyond a bare loop"
    return Row(question, statistics.median(beyond), "us", target, samples=len(pairs), note=note)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else BLOCKS)
