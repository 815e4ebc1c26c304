"""Runs trainings that are killed in a phase of their own: at the start, in training, while a checkpoint is written."""

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import forked
from image_classifier.engine.project import PROJECT_ROOT

PHASES = {"start": b"s", "training": b"t", "validation": b"v", "checkpoint": b"c", "test": b"e"}
PROGRAM = """
import sys
from forked_runs import announce_phases
announce_phases(int(sys.argv[1]))
from image_classifier import commands
sys.argv = ["train.py", *sys.argv[2:]]
commands.train()
"""


class Kill(NamedTuple):
    """When a process is killed with SIGKILL."""

    phase: str  # of PHASES
    number: int  # which time that the process is in that phase, from 0
    seconds: float  # from the beginning of that time


class Ended(NamedTuple):
    """How a process ended."""

    status: int  # -9 for one that was killed
    output: str
    died_in: str  # phase
    times: dict[str, list[float]]  # seconds that it was in a phase, each time


def train(*arguments: str, output: Path, kill: Kill | None = None) -> Ended:
    """Run `train.py`, killing it where a moment is given and the process is still there then.

    Args:
        arguments: Of the command.
        output: File for all that it prints.
        kill: The moment.
    """
    path = os.pathsep.join([str(PROJECT_ROOT / "src"), str(PROJECT_ROOT / "tests")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    reader, writer = os.pipe()
    with output.open("w") as file:
        process = forked.Process(
            [sys.executable, "-c", PROGRAM, str(writer), *arguments],
            cwd=PROJECT_ROOT,
            env=environment,
            stdout=file,
            stderr=file,
            process_group=0,
            pass_fds=[writer],
        )
    os.close(writer)
    seen = follow(process, reader, kill)
    os.close(reader)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # those that outlive it
    times: dict[str, list[float]] = {name: [] for name in PHASES}
    names = {letter: name for name, letter in PHASES.items()}
    for (letter, start), (_, end) in pairwise(seen):
        times[names[letter]].append(end - start)
    return Ended(process.wait(), output.read_text(), names[seen[-2][0]], times)


def follow(process: forked.Process, reader: int, kill: Kill | None) -> list[tuple[bytes, float]]:
    """Kill a process at its moment; returns the phases that began, and when, and the end of the last one."""
    seen: list[tuple[bytes, float]] = []
    due: float | None = None
    while True:
        wait = None if due is None else max(0.0, due - time.monotonic())
        # The pipe's end says nothing: processes that read pictures may outlive the training.
        ready = select.select([reader, process.connection], [], [], wait)[0]
        letter = os.read(reader, 1) if reader in ready else b""
        if letter:
            seen.append((letter, time.monotonic()))
            if kill and due is None and [one for one, _ in seen].count(PHASES[kill.phase]) > kill.number:
                due = seen[-1][1] + kill.seconds
        if due is not None and time.monotonic() >= due:
            os.kill(process.pid, signal.SIGKILL)
            due, kill = None, None
        if process.connection in ready and not letter:
            return [*seen, (b"", time.monotonic())]


def announce_phases(writer: int) -> None:
    """Have what begins and ends a phase write its letter into the pipe."""
    from functools import partial

    import timm
    from pytorch_lightning.loops.evaluation_loop import _EvaluationLoop
    from pytorch_lightning.loops.fit_loop import _FitLoop

    from image_classifier.engine.training.checkpoint_io import AtomicCheckpointIO

    os.set_inheritable(writer, False)
    timm.create_model = partial(timm.create_model, drop_path_rate=0.5)  # there is no setting for it
    now = ["start"]

    def announced(phase: Callable[..., str], function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(self: Any, *arguments: Any, **settings: Any) -> Any:
            before = now[0]
            enter(phase(self))
            try:
                return function(self, *arguments, **settings)
            finally:
                enter(before)

        return wrapper

    def enter(phase: str) -> None:
        now[0] = phase
        os.write(writer, PHASES[phase])

    def of_evaluation(loop: Any) -> str:
        return "test" if loop.trainer.testing else "validation"

    enter("start")
    _FitLoop.run = announced(lambda _: "training", _FitLoop.run)  # type: ignore[method-assign]
    _EvaluationLoop.run = announced(of_evaluation, _EvaluationLoop.run)  # type: ignore[method-assign]
    AtomicCheckpointIO.save_checkpoint = announced(lambda _: "checkpoint", AtomicCheckpointIO.save_checkpoint)  # type: ignore[method-assign]
