"""Loggers whose service fails, hangs or dies: told in a line, the training is complete, nothing waits for long."""

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from fake_servers import KEY, Uploads, refusing, serving, silent
from readers import WandbReader, read_wandb_records

import forked
from image_classifier.engine.project import PROJECT_ROOT
from run_directories import differences
from tiny import TINY

SETTINGS = (*TINY, "trainer.precision=32-true", "data.batch_size=12", "+trainer.enable_progress_bar=false")
START, END = 15.0, 30.0  # seconds that a logger may hold up a run


class Outcome(NamedTuple):
    status: int
    output: str
    errors: str
    start: float  # seconds, from the moment that the libraries are there to the first step
    end: float  # seconds, from the last step of the test to the end of the process


# A run in a process of its own, as a user starts it, that says when it starts and stops working.
SCRIPT = """
import os, sys, time
sys.path[:0] = os.environ["SEARCH"].split(os.pathsep)
from image_classifier import commands, pipeline
from image_classifier.engine.loggers import wandb
times = {}
def clock(function, before, after):
    def timed(*arguments, **settings):
        times.setdefault(before, time.monotonic())
        result = function(*arguments, **settings)
        times[after] = time.monotonic()
        return result
    return timed
pipeline.make_loggers = clock(pipeline.make_loggers, "loggers", "made")
pipeline.fit = clock(pipeline.fit, "fit", "fitted")
pipeline.test = clock(pipeline.test, "test", "tested")
exec(os.environ.get("DISTURB", ""))
sys.argv = ["train.py", *sys.argv[1:]]
try:
    commands.train()
finally:
    with open(os.environ["TIMES"], "w") as file:
        file.write(f"{times['fit'] - times['loggers']} {times['tested']}")
"""


def train(tmp_path: Path, *arguments: str, disturb: str = "", **environment: str) -> Outcome:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB_", "MLFLOW_"))}
    kept |= {"NETRC": str(tmp_path / "no_netrc"), "TIMES": str(tmp_path / "times"), "DISTURB": disturb}
    kept |= {"SEARCH": os.pathsep.join([str(PROJECT_ROOT / "src"), str(PROJECT_ROOT / "tests")])}
    kept |= {"HOME": str(tmp_path)} | environment
    command = [sys.executable, "-c", SCRIPT, *SETTINGS, *arguments, f"hydra.run.dir={tmp_path}/run"]
    done = forked.run(command, env=kept, capture_output=True, timeout=170, cwd=tmp_path)
    start, tested = (tmp_path / "times").read_text().split()
    return Outcome(done.returncode, done.stdout, done.stderr, float(start), time.monotonic() - float(tested))


def complete(tmp_path: Path) -> bool:
    return json.loads((tmp_path / "run" / "metrics.json").read_text())["epochs"] == 2


def lines(outcome: Outcome, start: str) -> list[str]:
    return [line for line in outcome.output.splitlines() if line.startswith(start)]


def check_quiet(outcome: Outcome) -> None:
    """No traceback, and no other library speaks after the run."""
    assert outcome.status == 0, outcome.errors
    noise = [line for line in outcome.errors.splitlines() if "slurm" not in line and "srun" not in line]
    assert noise == [], outcome.errors


@pytest.fixture
def address(request: pytest.FixtureRequest) -> Iterator[str]:
    """Of a server that behaves as the parameter says; "500 after 3" answers three requests rightly."""
    behaviour, _, after = request.param.partition(" after ")
    if behaviour == "refused":
        yield refusing()
    elif behaviour == "silent" and not after:
        with silent() as url:
            yield url
    else:
        with serving(behaviour, int(after or 0)) as server:
            yield server.url


BEHAVIOURS = ["refused", "silent", "401", "500", "garbage", "malformed"]


@pytest.mark.slow
@pytest.mark.waits
@pytest.mark.parametrize("address", [*BEHAVIOURS, *(f"{name} after 1" for name in BEHAVIOURS[1:])], indirect=True)
def test_wandb_that_cannot_start_goes_offline(tmp_path: Path, address: str) -> None:
    outcome = train(tmp_path, "logger=[wandb,csv]", WANDB_API_KEY=KEY, WANDB_BASE_URL=address)
    check_quiet(outcome)
    assert complete(tmp_path)
    assert outcome.start < START and outcome.end < END
    assert len(lines(outcome, "W&B")) == 1, outcome.output
    assert lines(outcome, "W&B logs offline (") and "wandb sync " in outcome.output
    assert WandbReader(tmp_path / "run").scalars()["val/acc"]
    assert KEY not in outcome.output + outcome.errors


@pytest.mark.slow
@pytest.mark.waits
@pytest.mark.parametrize("address", [f"{name} after 4" for name in BEHAVIOURS[1:]], indirect=True)
def test_wandb_that_fails_in_the_middle_keeps_its_files(tmp_path: Path, address: str) -> None:
    outcome = train(tmp_path, "logger=[wandb,csv]", WANDB_API_KEY=KEY, WANDB_BASE_URL=address)
    check_quiet(outcome)
    assert complete(tmp_path)
    assert outcome.start < START and outcome.end < END
    (file,) = (tmp_path / "run" / "wandb").glob("run-*/run-*.wandb")
    keys = [item.nested_key[0] for row in history(file) for item in row.item if item.nested_key]
    assert keys, "what was logged before it failed"  # a table waits for the server: a silent one is left out after 15 s
    assert len(lines(outcome, "W&B failed (")) == 1, outcome.output
    assert f"wandb sync {file.parent}" in lines(outcome, "W&B failed (")[0]


def history(file: Path) -> list[Any]:
    return [record.history for record in read_wandb_records(file) if record.WhichOneof("record_type") == "history"]


KILL_HELPER = """
import signal, subprocess
from image_classifier.engine.training.last_checkpoint import LastCheckpoint
saved = LastCheckpoint.on_train_epoch_end
def kill(self, *arguments):
    saved(self, *arguments)
    from wandb.sdk import wandb_setup
    if wandb_setup._singleton:  # not let go of yet
        wandb_setup._singleton._connection._proc._process.send_signal(signal.SIG{})
LastCheckpoint.on_train_epoch_end = kill
"""


@pytest.mark.slow
@pytest.mark.waits
@pytest.mark.parametrize("signal", ["KILL", "STOP"])
@pytest.mark.parametrize("mode", ["online", "offline"])
def test_wandb_whose_helper_process_dies_or_hangs(tmp_path: Path, signal: str, mode: str) -> None:
    with serving() as server:
        settings = {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": server.url}
        mode_of = f"logger.wandb.mode={mode}"
        outcome = train(tmp_path, "logger=[wandb,csv]", mode_of, disturb=KILL_HELPER.format(signal), **settings)
    check_quiet(outcome)
    assert complete(tmp_path)
    assert outcome.end < END
    (line,) = lines(outcome, "W&B failed (")
    assert "wandb sync " in line
    assert lines(outcome, "Not everything was logged by W&B")


@pytest.mark.slow
@pytest.mark.waits
def test_wandb_online_uploads_what_was_logged(tmp_path: Path) -> None:
    with serving() as server:
        outcome = train(
            tmp_path,
            *("logger=[wandb,csv]", "confusion_matrix=all"),
            **{"WANDB_API_KEY": KEY, "WANDB_BASE_URL": server.url},
        )
        uploads = server.uploads
    check_quiet(outcome)
    assert lines(outcome, "W&B run: http://127.0.0.1") and outcome.start < START and outcome.end < END
    check_uploads(uploads, json.loads((tmp_path / "run" / "metrics.json").read_text()))
    assert not [path for path in (tmp_path / "run").rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


def check_uploads(uploads: Uploads, metrics: dict[str, float]) -> None:
    logged = [row["val/acc"] for row in uploads.history if "val/acc" in row]
    assert len(logged) == 2 and max(logged) == pytest.approx(metrics["val/acc"], abs=1e-6)
    assert uploads.summary["final/test/acc"] == pytest.approx(metrics["test/acc"])
    assert any("confusion_matrix/val" in key for row in uploads.history for key in row)
    assert any(name.startswith("media/images/confusion_matrix/val") for name in uploads.files)
    assert "image-classifier" in str(uploads.runs[0]["project"])


@pytest.mark.slow
@pytest.mark.waits
@pytest.mark.parametrize("address", ["refused", "silent", "500", "garbage"], indirect=True)
def test_mlflow_that_cannot_be_reached(tmp_path: Path, address: str) -> None:
    outcome = train(tmp_path, "logger=[mlflow,csv]", f"logger.mlflow.tracking_uri={address}")
    check_quiet(outcome)
    assert complete(tmp_path)
    assert outcome.start < START + 5 and outcome.end < END  # and its import takes a while
    (line,) = lines(outcome, "MLflow")
    assert line.startswith("MLflow failed (") and line.endswith("the run goes on without it")
    assert lines(outcome, "Not everything was logged by MLflow")
    assert (tmp_path / "run" / "csv" / "metrics.csv").is_file()


@pytest.mark.parametrize(
    ("name", "directory"), [("tensorboard", "tensorboard"), ("csv", "csv"), ("mlflow", "mlruns"), ("wandb", "wandb")]
)
def test_a_directory_that_cannot_be_written(
    train: Any, tmp_path: Path, name: str, directory: str, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / directory).write_text("a file, where a directory should be made")
    other = "csv" if name != "csv" else "tensorboard"
    run_dir = train(f"logger=[{name},{other}]", "trainer.max_epochs=1")
    said = capsys.readouterr().out.splitlines()
    assert len([line for line in said if "the run goes on without it" in line]) == 1, said
    assert (run_dir / "metrics.json").is_file() and (run_dir / other).is_dir()


@pytest.mark.parametrize("logger", ["csv", "tensorboard", "mlflow"])
def test_a_failing_logger_changes_no_weight(train: Any, tmp_path: Path, logger: str) -> None:
    settings = ("trainer.precision=32-true", "confusion_matrix=all")
    straight = train("logger=none", *settings, f"paths.run_dir={tmp_path}/straight")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / {"mlflow": "mlruns"}.get(logger, logger)).write_text("")
    assert differences(straight, train(f"logger={logger}", *settings)) == []
