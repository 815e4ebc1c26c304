"""Runs commands as processes that can be killed: children of one process that has imported what they need.

Each takes a second or two instead of five. As a program this reads requests from stdin, one line of JSON
each, and answers each with a line; `ForkedRuns` is the other end.
"""

import atexit
import contextlib
import gc
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from image_classifier.engine.project import PROJECT_ROOT

PHASES = {"start": b"s", "training": b"t", "validation": b"v", "checkpoint": b"c", "test": b"e"}


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


class ForkedRuns:
    """Starts commands one after the other."""

    def __init__(self) -> None:
        path = os.pathsep.join([str(PROJECT_ROOT / "src"), str(PROJECT_ROOT / "tests")])
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def run(self, *arguments: str, output: Path, kill: Kill | None = None) -> Ended:
        """Run `train.py`, killing it where a moment is given and the process is still there then.

        Args:
            arguments: Of the command.
            output: File for all that it prints.
            kill: The moment.
        """
        request = {"arguments": arguments, "output": str(output), "kill": kill}
        assert self.process.stdin and self.process.stdout
        print(json.dumps(request), file=self.process.stdin, flush=True)
        answer = json.loads(self.process.stdout.readline())
        return Ended(answer["status"], output.read_text(), answer["died_in"], answer["times"])

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(60)


def serve() -> None:
    import pytorch_lightning  # noqa: F401
    import timm  # noqa: F401
    import torchvision  # noqa: F401
    from hydra.core.plugins import Plugins

    import image_classifier.commands
    import image_classifier.pipeline  # noqa: F401

    Plugins.instance()  # looks for them: half a second of each start
    gc.freeze()  # a child's collections would look at, and so copy, all of this
    atexit.register(gc.unfreeze)  # else triton says at the end that it leaks
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        kill = Kill(*request["kill"]) if request["kill"] else None
        print(json.dumps(fork_and_watch(request["arguments"], request["output"], kill)), file=answers, flush=True)


def fork_and_watch(arguments: list[str], output: str, kill: Kill | None) -> dict[str, Any]:
    """Run in a child, follow its phases through a pipe, and kill it."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        work(arguments, output, writer)
    os.close(writer)
    over = os.pidfd_open(child)  # the pipe's end says nothing: processes that read pictures may outlive the child
    seen: list[tuple[bytes, float]] = []  # the phases that began, and when
    due: float | None = None
    while True:
        wait = None if due is None else max(0.0, due - time.monotonic())
        ready = select.select([reader, over], [], [], wait)[0]
        letter = os.read(reader, 1) if reader in ready else b""
        if letter:
            seen.append((letter, time.monotonic()))
            if kill and due is None and [one for one, _ in seen].count(PHASES[kill.phase]) > kill.number:
                due = seen[-1][1] + kill.seconds
        if due is not None and time.monotonic() >= due:
            os.kill(child, signal.SIGKILL)
            due, kill = None, None
        if over in ready and not letter:
            break
    seen.append((b"", time.monotonic()))
    os.close(reader), os.close(over)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # those that outlive it
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    times: dict[str, list[float]] = {name: [] for name in PHASES}
    names = {letter: name for name, letter in PHASES.items()}
    for (letter, start), (_, end) in pairwise(seen):
        times[names[letter]].append(end - start)
    return {"status": status, "died_in": names[seen[-2][0]], "times": times}


def work(arguments: list[str], output: str, writer: int) -> None:
    """The command, in a child, which announces its phases."""
    os.set_inheritable(writer, False)
    os.setpgid(0, 0)

    def train() -> None:
        announce_phases(writer)
        sys.argv = ["train.py", *arguments]
        os.chdir(PROJECT_ROOT)
        runpy.run_path("train.py", run_name="__main__")

    end_with(train, output)


def end_with(command: Callable[[], Any], output: str) -> NoReturn:
    """Do a child's work as a command does: all that it prints goes to a file, and it ends with a command's status."""
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1), os.dup2(file, 2)
    status = 0
    try:
        status = int(command() or 0)
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException:
        import traceback

        traceback.print_exc()
        status = 1
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(status)


def announce_phases(writer: int) -> None:
    """Have what begins and ends a phase write its letter into the pipe."""
    from functools import partial

    import timm
    from pytorch_lightning.loops.evaluation_loop import _EvaluationLoop
    from pytorch_lightning.loops.fit_loop import _FitLoop

    from image_classifier.engine.training.checkpoint_io import AtomicCheckpointIO

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


if __name__ == "__main__":
    serve()
