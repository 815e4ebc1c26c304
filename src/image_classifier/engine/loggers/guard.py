"""Keeps a logger from stopping or holding up a training: one that fails or hangs is told once, and left out."""

import functools
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from lightning_fabric.loggers.logger import (
    _DummyExperiment,  # Lightning 2.6: what other processes get
)

from image_classifier.engine import terminal
from image_classifier.engine.errors import UserError
from image_classifier.engine.terminal import printable

CALL = 15.0  # seconds that a training waits for a call of a logger
END = 22.0  # seconds that it waits for the end of a run of a logger

# What Lightning and our callbacks ask of loggers.
METHODS = (
    *("log_metrics", "log_hyperparams", "log_graph", "save", "finalize", "after_save_checkpoint"),
    *("log_image", "log_markdown", "log_rows", "log_matrix", "log_matrix_chart", "group_curves"),
    *("log_facts", "log_final_metrics", "log_page", "log_table", "log_text"),
    *("mark", "go_on", "start_anew", "close"),
)


class Worker:
    """A thread of its own for calls that may hang: whoever waits can give up. It ends with the process."""

    def __init__(self) -> None:
        self.calls: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self.work, daemon=True, name="logger")
        self.thread.start()

    def work(self) -> None:
        while True:
            future, function = self.calls.get()
            try:
                future.set_result(function())
            except BaseException as error:  # some libraries call sys.exit
                future.set_exception(error)

    def call(self, function: Callable[[], Any], seconds: float) -> Any:
        """Call a function in the thread.

        Raises:
            TimeoutError: It takes longer.
        """
        future: Future[Any] = Future()
        self.calls.put((future, function))
        try:
            return future.result(seconds)
        except TimeoutError:
            if future.done():
                raise
            raise TimeoutError(f"no answer within {seconds:g} seconds") from None


class Guard:
    """What is known of a logger that must not disturb the training.

    Args:
        logger: Its `title` names it in messages; with `remote`, it may hang and is called in a thread of its own; with
            `keeps_a_copy`, it is called on after an error, for its files still take what its server does not;
            `rescue()` says what to do with them; `abandon()` lets go of what might hang later.
    """

    def __init__(self, logger: Any) -> None:
        self.logger = logger
        self.title = str(getattr(logger, "title", type(logger).__name__))
        self.failure: str | None = None  # the first
        self.off = False
        self.worker: Worker | None = None
        self.busy = False  # with a call that makes others

    def call(self, name: str, function: Callable[..., Any], *arguments: Any, **settings: Any) -> Any:
        """Call a method of the logger. One that has failed answers False: it has taken nothing."""
        if self.busy:
            return function(*arguments, **settings)
        if self.off:
            return False
        self.busy = True
        try:
            return self.bounded(functools.partial(function, *arguments, **settings), END if name == "close" else CALL)
        except UserError:
            raise
        except (Exception, SystemExit) as error:
            self.tell(error, at_end=name == "close")
            if isinstance(error, TimeoutError) or name == "close" or not getattr(self.logger, "keeps_a_copy", False):
                self.give_up()
            return False
        finally:
            self.busy = False

    def experiment(self, start: Callable[[], Any]) -> Any:
        """The service's own object, which Lightning has made at the start; a dummy, when the logger has failed."""
        return self.call("experiment", start) or _DummyExperiment()

    def bounded(self, function: Callable[[], Any], seconds: float) -> Any:
        if not getattr(self.logger, "remote", False):
            return function()
        self.worker = self.worker or Worker()
        return self.worker.call(function, seconds)

    def tell(self, error: BaseException, at_end: bool) -> None:
        """Say what went wrong, the first time."""
        if self.failure is not None:
            return
        self.failure = reason_of(error)
        rest = "" if at_end else ": the run goes on without it"
        rescue = getattr(self.logger, "rescue", str)()
        say(f"{self.title} failed ({self.failure}){rest}{rescue and f'; {rescue}'}")

    def give_up(self) -> None:
        self.off = True
        try:
            getattr(self.logger, "abandon", str)()
        except Exception:
            return  # there is nothing left to let go of


def guarded(logger: Any) -> Any:
    """Have a logger's methods go through a `Guard`, which is its attribute `guard` from then on; returns the logger."""
    logger.guard = guard = Guard(logger)
    for name in METHODS:
        if callable(method := getattr(logger, name, None)):
            setattr(logger, name, functools.partial(guard.call, name, method))
    kind = type(logger)
    if isinstance(experiment := getattr(kind, "experiment", None), property):  # Lightning asks for it before a fit
        started = property(lambda self: self.guard.experiment(lambda: experiment.__get__(self)))
        logger.__class__ = type(kind.__name__, (kind,), {"experiment": started})
    return logger


def made(title: str, make: Callable[[], Any]) -> Any:
    """Make a logger and guard it; None where it cannot be made, though its settings are right.

    Args:
        title: Of the logger, for the message.
        make: Returns it.
    """
    try:
        return guarded(make())
    except UserError:
        raise
    except Exception as error:
        say(f"{title} cannot be used ({reason_of(error)}): the run goes on without it")
        return None


def tell_failures(loggers: list[Any]) -> None:
    """At the end of a run, say which loggers do not have all of it."""
    failed = [f"{logger.guard.title} ({logger.guard.failure})" for logger in loggers if logger.guard.failure]
    if failed:
        say(f"Not everything was logged by {', '.join(failed)}")


def reason_of(error: BaseException) -> str:
    """The first line of an error, without what would disturb a terminal; its kind, when it says nothing."""
    lines = str(error).strip().splitlines()
    return printable(lines[0][:200]) if lines else type(error).__name__


def say(text: str) -> None:
    try:
        terminal.say(text)
    except OSError:
        return  # a full disk under the terminal's output, too
