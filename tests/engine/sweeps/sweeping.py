"""Running sweeps in this process, as the command does, and reading what they leave behind."""

import contextlib
import csv
import io
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import forked
from image_classifier import commands
from image_classifier.engine.project import PROJECT_ROOT

# A job takes about half a second.
TINY = (
    "data=synthetic",
    "data.num_samples=200",
    "data.image_size=8",
    "data.num_classes=4",
    "model=mlp",
    "model.net.hidden_sizes=[16]",
    "trainer=cpu",
    "trainer.precision=32-true",
    "trainer.max_epochs=3",
    "trainer.log_every_n_steps=1",
    "+trainer.enable_progress_bar=false",
    "callbacks.progress_bar=null",
    "+trainer.enable_model_summary=false",
    "callbacks.model_summary=null",
    "callbacks.learning_rate_monitor=null",
    "callbacks.sample_images=null",
    "callbacks.report=null",
    "callbacks.misclassified=null",
    "callbacks.calibration=null",
    "confusion_matrix=none",
    "logger=none",
)


class Outcome(NamedTuple):
    status: int
    output: str
    errors: str


def run(*arguments: str, command: Callable[[], None] = commands.train) -> Outcome:
    """Run a command of the project in this process."""
    output, errors = io.StringIO(), io.StringIO()
    status: Any = 0
    with (
        patch.object(sys, "argv", ["train.py", *arguments]),
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
    ):
        try:
            command()
        except SystemExit as exit_:
            status = exit_.code or 0
    return Outcome(status, output.getvalue(), errors.getvalue())


def sweep(directory: Path, *arguments: str) -> Outcome:
    return run("-m", *TINY, f"hydra.sweep.dir={directory}", *arguments)


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def summary(directory: Path) -> list[dict[str, str]]:
    """The rows of the table that a sweep leaves."""
    with (directory / "sweep_summary.csv").open() as file:
        return list(csv.DictReader(file))


def figures(run_dir: Path) -> dict[str, float]:
    """The final figures of a run, those left out that are no result."""
    return {key: value for key, value in read(run_dir / "metrics.json").items() if key != "fit_seconds"}


def wait_for(condition: Callable[[], bool], process: subprocess.Popen | forked.Process | None = None) -> None:
    end = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        assert process is None or process.poll() is None, "the process is over already"
        time.sleep(0.02)


def sweep_until(condition: Callable[[], bool], directory: Path, *arguments: str) -> None:
    """Start a sweep in a process of its own, and kill it with SIGKILL as soon as a condition holds."""
    command = [sys.executable, str(PROJECT_ROOT / "train.py"), "-m", *TINY, f"hydra.sweep.dir={directory}"]
    process = forked.Process([*command, *arguments], stdout=subprocess.DEVNULL)
    try:
        wait_for(condition, process)
    finally:
        process.kill()
        process.wait()
