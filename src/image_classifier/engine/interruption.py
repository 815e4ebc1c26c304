"""Ctrl-C and the signals by which clusters end a job: what ends at once, and what is finished first.

A signal raises `Interrupted` wherever the process is, unless something `hold`s it: a training does, until the end of
its step, and so does whatever must not stay half done. Imports no torch, for it counts from the start of a command.
"""

import atexit
import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from image_classifier.engine.terminal import say

SIGNALS = ("SIGINT", "SIGTERM")
SLURM_SIGNALS = ("SIGUSR1",)  # by convention the warning before the end: sbatch --signal=USR1@60
SAME = 2.0  # seconds; srun and torchrun pass a signal on to processes that have got it from the terminal already


class Interrupted(BaseException):
    """The process was asked to end. No `Exception`, so that nobody takes it for an error and goes on.

    Args:
        number: Of the signal.
        after_step: Whether the training stands at the end of a step, where it can be resumed.
    """

    def __init__(self, number: int, *, after_step: bool = False) -> None:
        super().__init__(number)
        self.number = number
        self.after_step = after_step

    @property
    def status(self) -> int:
        """The exit status of a process that a signal ended, as shells have it."""
        return 128 + self.number

    def __str__(self) -> str:
        return signal.Signals(self.number).name


class State:
    """What this process knows of signals."""

    asked: int | None = None  # the first signal
    when = 0.0  # of `monotonic`
    holds = 0
    process = 0  # that listens: those that it forks inherit its handlers
    advice: Callable[[], str] | None = None  # tells how to go on afterwards


state = State()


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Let signals raise `Interrupted`. Those that somebody else has a handler for, as submitit has, are left alone."""
    names = SIGNALS + SLURM_SIGNALS * ("SLURM_JOB_ID" in os.environ)
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    free = [number for number in numbers if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)]
    if not free or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, on_signal) for number in free}
    state.asked, state.process, state.holds = None, os.getpid(), 0
    try:
        yield
    finally:
        state.asked, state.process, state.holds = None, 0, 0  # what comes later in this process was not asked to end
        for number, handler in before.items():
            signal.signal(number, handler)


def on_signal(number: int, frame: Any = None) -> None:
    """The handler: the first signal waits for the end of a `hold`, a later one does not."""
    if os.getpid() != state.process:  # a worker of a data loader, which the training ends
        if number != signal.SIGINT:
            os._exit(128 + number)
        return
    now = time.monotonic()
    if state.asked is None:
        state.asked, state.when = number, now
        if state.holds:
            name = signal.Signals(number).name
            say_past_buffers(f"{name}: ending after this step, the running validation, or the imports; again: at once")
            return
    elif now - state.when < SAME:
        return
    raise Interrupted(state.asked)


def say_past_buffers(text: str) -> None:
    """Print a line past Python's buffers, which the interrupted code may be writing to; once for all processes."""
    with contextlib.suppress(OSError):
        if os.environ.get("RANK", "0") == "0":
            os.write(2, f"{text}\n".encode())


def is_listening() -> bool:
    """Whether this process has the handlers of `listening`."""
    return state.process == os.getpid()


def asked() -> int | None:
    """The signal by which the process was asked to end."""
    return state.asked


def hold() -> None:
    """From here on, the first signal is only noted."""
    state.holds += 1


def release() -> None:
    """The end of a `hold`; `check` raises what was noted."""
    state.holds = max(0, state.holds - 1)


def check(*, after_step: bool = False) -> None:
    """Raise `Interrupted` when a signal was noted."""
    if state.asked is not None:
        raise Interrupted(state.asked, after_step=after_step)


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Finish what stands in the block before a signal ends the process."""
    hold()
    try:
        yield
    finally:
        release()
    if not state.holds:
        check()


@contextlib.contextmanager
def command(silent: bool = False) -> Iterator[None]:
    """Around a whole command: a signal ends it with one line and the status that stands for the signal.

    Args:
        silent: Leave the line to another process.
    """
    try:
        with listening():
            yield
    except (Interrupted, KeyboardInterrupt) as error:
        stop = error if isinstance(error, Interrupted) else Interrupted(signal.SIGINT)
        advice, state.advice = state.advice, None
        atexit.register(logging.disable, logging.CRITICAL)  # the first at the end: torch logs statistics there
        if not silent:
            say(f"Interrupted by {stop}. {advice() if advice else ''}".strip(), sys.stderr)
        sys.exit(stop.status)


def advise(advice: Callable[[], str]) -> None:
    """Say how to go on after an interruption.

    Args:
        advice: Returns a sentence; called when it is needed.
    """
    state.advice = advice
