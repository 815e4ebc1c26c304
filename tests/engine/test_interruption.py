"""Signals: a training ends at the end of its step with a checkpoint of it, all else at once; one line, status 128+n."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from readers import MLFlowReader, TensorBoardReader, WandbReader
from sweeping import Outcome, run

import forked
from image_classifier.engine import interruption
from image_classifier.engine.launch import objects
from image_classifier.engine.project import PROJECT_ROOT
from run_directories import differences
from tiny import TINY

STEPS = 10  # an epoch: 120 training images in batches of 12
SETTINGS = (
    *(text for text in TINY if text != "callbacks.report=null"),
    *("trainer.max_epochs=3", "data.batch_size=12", "trainer.precision=32-true", "callbacks.early_stopping=null"),
    "logger=csv",
)
NUMBERS = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture(autouse=True)
def trust_the_callback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "EXECUTION_WHITELIST", (*objects.EXECUTION_WHITELIST, "moments.*"))


def signal_at(moment: str, step: int, number: int) -> str:
    arguments = f"moment: {moment}, step: {step}, number: {int(number)}"
    return f"+callbacks.signal={{_target_: moments.SignalAt, {arguments}}}"


def train(directory: Path, *arguments: str) -> Outcome:
    return run(*SETTINGS, f"hydra.run.dir={directory}", *arguments)


def steps_of(directory: Path) -> int:
    return torch.load(directory / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


# Moments, and the step that last.ckpt must be of.
MOMENTS = [
    ("on_train_batch_start", 4, 5),
    ("on_train_batch_end", 4, 4),
    ("on_before_optimizer_step", 13, 14),
    ("on_validation_batch_end", 10, 10),  # the validation is finished, and with it the epoch
    ("on_validation_epoch_end", 20, 20),
    ("on_train_epoch_end", 10, 10),
    ("on_train_batch_start", 9, 10),  # the last step of an epoch
    ("on_train_end", 30, 30),
    ("on_test_batch_end", 30, 30),
    ("on_test_epoch_end", 30, 30),
]


@pytest.mark.sampled(every=5)
@pytest.mark.parametrize("number", NUMBERS, ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize(("moment", "step", "expected"), MOMENTS)
def test_a_signal_leaves_the_checkpoint_of_that_step(
    tmp_path: Path, moment: str, step: int, expected: int, number: signal.Signals
) -> None:
    stopped = train(tmp_path / "run", signal_at(moment, step, number))
    assert int((tmp_path / "run" / "sent.txt").read_text()) == step
    assert stopped.status == 128 + number
    said = lines(stopped.errors)
    assert said[-1] == f"Interrupted by {number.name}. Go on with: python train.py resume={tmp_path}/run"
    assert "Traceback" not in stopped.errors and len(said) <= 1  # a held signal is told past Python's stderr
    assert steps_of(tmp_path / "run") == expected
    assert (tmp_path / "run" / "report" / "report.html").is_file() or moment.startswith("on_t") or step < 10
    assert not list((tmp_path / "run").rglob(".*.ckpt.*"))


def test_the_signal_before_the_end_of_a_slurm_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    stopped = train(tmp_path / "run", signal_at("on_train_batch_start", 4, signal.SIGUSR1))
    assert stopped.status == 128 + signal.SIGUSR1 and steps_of(tmp_path / "run") == 5
    assert "Interrupted by SIGUSR1. Go on with: " in stopped.errors


@pytest.mark.parametrize("number", NUMBERS, ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("write", [1, 2, 5])
def test_a_checkpoint_is_written_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, write: int
) -> None:
    save, writes = torch.save, iter(range(1, 100))

    def save_with_signal(content: Any, file: Any) -> None:
        save(content, file)
        if next(writes) == write:
            data = Path(file.name).read_bytes()
            file.truncate(1000)
            os.kill(os.getpid(), number)
            file.seek(0)
            file.write(data)

    monkeypatch.setattr(torch, "save", save_with_signal)
    stopped = train(tmp_path / "run", "+callbacks.last_checkpoint.every_n_steps=4")
    assert stopped.status == 128 + number
    assert steps_of(tmp_path / "run") > 0
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) in (
        ["best.ckpt", "last.ckpt"],
        ["last.ckpt"],
    )


def test_all_loggers_are_closed(tmp_path: Path) -> None:
    classes = ("tensorboard.TensorBoardLogger", "mlflow.MLFlowLogger", "wandb.WandbLogger")
    further = {"mlflow": ", experiment: image-classifier", "wandb": ", project: x, mode: offline"}
    others = [
        f"+logger.{name}={{_target_: image_classifier.engine.loggers.{name}.{kind}, "
        f"run_dir: '${{paths.run_dir}}'{further.get(name, '')}}}"
        for name, kind in (entry.split(".") for entry in classes)
    ]
    stopped = train(tmp_path / "run", *others, signal_at("on_train_batch_start", 14, signal.SIGTERM))
    assert stopped.status == 143, stopped.errors
    assert TensorBoardReader(tmp_path / "run").scalars()["val/acc"]
    assert MLFlowReader(tmp_path / "run").run.info.status == "FAILED"  # MLflow's word for what did not end by itself
    assert WandbReader(tmp_path / "run").scalars()["val/acc"]
    assert len((tmp_path / "run" / "csv" / "metrics.csv").read_text().splitlines()) > 10


def test_a_second_signal_ends_it_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interruption, "SAME", 0.0)
    first = signal_at("on_validation_batch_start", 10, signal.SIGINT)
    second = first.replace("callbacks.signal", "callbacks.another").replace("batch_start", "batch_end")
    stopped = train(tmp_path / "run", first, second)
    assert stopped.status == 130
    assert not (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()  # the epoch was not over


def test_a_signal_that_comes_twice_at_once_is_one(tmp_path: Path) -> None:
    first = signal_at("on_validation_batch_start", 10, signal.SIGINT)
    second = first.replace("callbacks.signal", "callbacks.another").replace("batch_start", "batch_end")
    stopped = train(tmp_path / "run", first, second)
    assert stopped.status == 130 and steps_of(tmp_path / "run") == 10


def test_a_stopped_sweep_goes_on_where_it_was(tmp_path: Path) -> None:
    jobs = ("-m", *SETTINGS, "model.net.hidden_sizes=[4],[5],[6]")
    straight = run(*jobs, f"hydra.sweep.dir={tmp_path}/straight")
    assert straight.status == 0
    sent = signal_at("on_train_batch_start", 14, signal.SIGINT)
    stopped = run(*jobs, "seed=1", sent, f"hydra.sweep.dir={tmp_path}/sweep")
    assert stopped.status == 130
    (said,) = (line for line in lines(stopped.errors) if line.startswith("Interrupted"))
    assert said.startswith("Interrupted by SIGINT. Go on with: python train.py -m ")
    assert said.endswith(f" hydra.sweep.dir={tmp_path}/sweep")
    assert steps_of(tmp_path / "sweep" / "0") == 15 and not (tmp_path / "sweep" / "1").exists()


# In processes of their own.

Process = subprocess.Popen | forked.Process
SLEEP = (*SETTINGS, "trainer.max_epochs=100000")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Start a command of the project in a process group of its own."""
    started: list[Process] = []

    def popen(*command: str, kind: Any = forked.Process) -> Process:
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        started.append(kind([sys.executable, *command], process_group=0, **streams))
        return started[-1]

    yield popen
    for process in started:
        process.kill()
        process.wait()


SCRIPT = str(PROJECT_ROOT / "train.py")


def listens(process: Process) -> bool:
    """Whether a process has a handler of SIGTERM: before it imports anything that takes long."""
    (caught,) = re.findall(r"^SigCgt:\t(\w+)$", Path(f"/proc/{process.pid}/status").read_text(), re.MULTILINE)
    return bool(int(caught, 16) >> signal.SIGTERM - 1 & 1)


@pytest.mark.slow
@pytest.mark.sampled(every=3)
@pytest.mark.parametrize("number", NUMBERS, ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("seconds", [0.0, 0.7, 2.0])
def test_while_it_imports(tmp_path: Path, start: Callable, number: signal.Signals, seconds: float) -> None:
    process = start(SCRIPT, *SLEEP, f"hydra.run.dir={tmp_path}/run", kind=subprocess.Popen)
    wait_for(lambda: listens(process), process)
    time.sleep(seconds)
    os.killpg(process.pid, number)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 128 + number
    assert [line for line in lines(output) if line.startswith("Interrupted")] == lines(output)[-1:], output
    assert "Traceback" not in output
    if "Start again" in output:
        assert not (tmp_path / "run").exists()


LONG_EPOCHS = (*SETTINGS, "data.num_samples=4000", "data.batch_size=4", "trainer.max_epochs=2", "callbacks.report=null")


def wait_for(condition: Callable[[], Any], process: Process) -> None:
    end = time.monotonic() + 200
    while not condition():
        assert time.monotonic() < end and process.poll() is None, process.communicate()[0]
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["trainer.devices=2", pytest.param("torchrun", marks=pytest.mark.thorough)])
def test_two_processes_stop_after_the_same_step(tmp_path: Path, start: Callable, way: str) -> None:
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    # Its first last.ckpt comes early in the first epoch, of which at least another second is left.
    settings = (*LONG_EPOCHS, "callbacks.last_checkpoint.every_minutes=0.001", f"hydra.run.dir={tmp_path}/run")
    if way == "torchrun":
        port = 21_000 + os.getpid() % 9_000
        elastic = ("-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}")
        process = start(*elastic, SCRIPT, *settings, kind=subprocess.Popen)
    else:
        process = start(SCRIPT, *settings, way, kind=subprocess.Popen)
    wait_for(last.exists, process)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=60)[0]
    assert output.count("Interrupted by SIGTERM. Go on with: ") == 1, output
    if way != "torchrun":  # torchrun has a status of its own
        assert process.returncode == 143
    steps = steps_of(tmp_path / "run")
    assert steps % 375 != 0, "it stopped inside an epoch"
    again = start(SCRIPT, f"resume={tmp_path}/run", "trainer.devices=2")
    output = again.communicate(timeout=200)[0]
    assert again.returncode == 0, output
    straight = start(SCRIPT, *LONG_EPOCHS, f"hydra.run.dir={tmp_path}/straight", "trainer.devices=2")
    assert straight.wait(timeout=200) == 0
    assert differences(tmp_path / "straight", tmp_path / "run") == []


@pytest.mark.slow
def test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before(tmp_path: Path, start: Callable) -> None:
    large = ("model.net.hidden_sizes=[3000,3000]", "callbacks.last_checkpoint.every_minutes=0.0001")
    process = start(SCRIPT, *SLEEP, *large, f"hydra.run.dir={tmp_path}/run")
    directory = tmp_path / "run" / "checkpoints"
    wait_for((directory / "last.ckpt").exists, process)
    wait_for(lambda: list(directory.glob(".last.ckpt.*")), process)
    process.kill()
    process.wait()
    assert list(directory.glob(".last.ckpt.*")), "it was in the middle of it"
    steps = steps_of(tmp_path / "run")
    resumed = run(f"resume={tmp_path}/run", f"+trainer.max_steps={steps + 1}")
    assert resumed.status == 0, resumed.errors
    assert steps_of(tmp_path / "run") == steps + 1
    assert not list(directory.glob(".*"))
