"""A run that was killed and resumed has the curves of one that was not: no step twice, none missing, in one run."""

import csv
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from fake_servers import KEY, serving
from readers import MLFlowReader, TrackioReader, nested_items, read_wandb_records
from sweeping import run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

import forked
from image_classifier.engine.loggers.csv import MetricsFile
from image_classifier.engine.project import PROJECT_ROOT
from tiny import TINY

Series = dict[str, list[tuple[int, Any]]]  # {key: (step, value) in the order of writing}

STEPS = 10  # an epoch: 120 training images in batches of 12
KINDS = {
    "csv": "csv.CSVLogger",
    "tensorboard": "tensorboard.TensorBoardLogger",
    "mlflow": "mlflow.MLFlowLogger",
    "wandb": "wandb.WandbLogger",
    "trackio": "trackio.TrackioLogger",
}
FURTHER = {
    "mlflow": ", experiment: image-classifier, tracking_uri: null",
    "wandb": ", project: x, mode: offline",
    "trackio": ", project: image-classifier, store: unused",
}


def logger_settings(*names: str) -> list[str]:
    return [
        f"+logger.{name}={{_target_: image_classifier.engine.loggers.{KINDS[name]}, "
        f"run_dir: '${{paths.run_dir}}'{FURTHER.get(name, '')}}}"
        for name in names
    ]


SETTINGS = (
    *(text for text in TINY if not text.startswith("confusion_matrix")),
    *("trainer.max_epochs=3", "data.batch_size=12", "trainer.precision=32-true", "callbacks.early_stopping=null"),
    *("logger=none", "confusion_matrix=all", "+callbacks.last_checkpoint.every_n_steps=4"),
    *("confusion_matrix.forms=[scalar,table]", "callbacks.predictions=null"),
)
# Ends itself at a moment, as nobody can prevent.
KILLED = (
    "from image_classifier.engine.launch import objects; objects.EXECUTION_WHITELIST += ('moments.*',)\n"
    "from image_classifier import commands; commands.train()"
)


def kill(directory: Path, moment: str, step: int, *arguments: str) -> None:
    settings = (*SETTINGS, *arguments, f"hydra.run.dir={directory}")
    ended = start(*settings, signal_at(moment, step))
    assert ended.returncode == -signal.SIGKILL, ended.stderr


def signal_at(moment: str, step: int) -> str:
    return f"++callbacks.kill={{_target_: moments.SignalAt, moment: {moment}, step: {step}, number: {signal.SIGKILL}}}"


def start(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join([str(PROJECT_ROOT / "src"), str(PROJECT_ROOT / "tests")])
    others = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}  # this one's helper
    program = [sys.executable, "-c", KILLED, *arguments]
    return forked.run(program, env=others | {"PYTHONPATH": paths} | environment, capture_output=True)


def tensorboard_series(run_dir: Path) -> Series:
    """What TensorBoard shows: it keeps every event that no later start of a run takes back."""
    everything = {"scalars": 0, "images": 0, "tensors": 0}
    events = EventAccumulator(str(run_dir / "tensorboard"), size_guidance=everything).Reload()
    found: Series = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    for tag in events.Tags()["tensors"]:
        content = [(e.step, tensor_util.make_ndarray(e.tensor_proto).tolist()) for e in events.Tensors(tag)]
        found[tag] = [(step, "" if tag.startswith(("run/", "_hparams")) else value) for step, value in content]
    return found


def csv_series(run_dir: Path) -> Series:
    assert [path.name for path in (run_dir / "csv").glob("metrics*.csv")] == ["metrics.csv"]
    with (run_dir / "csv" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        key: [(int(row["step"]), float(row[key])) for row in rows if row[key] != ""] for key in rows[0] if key != "step"
    }


def wandb_rows(run_dir: Path) -> list[dict[str, Any]]:
    files = sorted((run_dir / "wandb").glob("*run-*/run-*.wandb"), key=lambda path: path.parent.name)
    assert len({path.name for path in files}) == 1, "they are parts of one run"
    return [
        nested_items(record.history.item) | {"_row": record.history.step.num}
        for file in files
        for record in read_wandb_records(file)
        if record.WhichOneof("record_type") == "history"
    ]


def wandb_series(run_dir: Path) -> Series:
    found: Series = {}
    rows = [row for row in wandb_rows(run_dir) if "trainer/global_step" in row]
    for row in rows:
        for key, value in row.items():
            if not key.startswith("_") and key != "trainer/global_step":
                content = value.get("_type", value) if isinstance(value, dict) else value
                found.setdefault(key, []).append((row["trainer/global_step"], content))
    numbers = [row["_row"] for row in rows]
    assert numbers == sorted(set(numbers)), "W&B drops rows whose number was there before"
    return found


def mlflow_series(run_dir: Path) -> Series:
    reader = MLFlowReader(run_dir)  # which finds one run only
    assert reader.run.info.status == "FINISHED"
    keys = reader.run.data.metrics
    histories = {key: reader.client.get_metric_history(reader.run.info.run_id, key) for key in keys}
    return {key: [(metric.step, metric.value) for metric in history] for key, history in histories.items()}


def trackio_series(run_dir: Path) -> Series:
    found: Series = {}
    for step, row in TrackioReader(run_dir).rows:
        for key, value in row.items():
            found.setdefault(key, []).append((step, value.get("_type") if isinstance(value, dict) else value))
    return found


SERIES: dict[str, Callable[[Path], Series]] = {
    "csv": csv_series,
    "tensorboard": tensorboard_series,
    "mlflow": mlflow_series,
    "wandb": wandb_series,
    "trackio": trackio_series,
}


def comparable(series: Series) -> Series:
    """Without what tells the time, and with one number for an epoch, which Lightning logs with each row of a step."""
    chosen = {key: values for key, values in series.items() if not key.endswith("fit_seconds")}
    chosen = {key: values for key, values in chosen.items() if not key.startswith(("run/", "_hparams"))}
    return {key: sorted(dict(values).items()) if key == "epoch" else values for key, values in chosen.items()}


def check_same(straight: Path, resumed: Path, names: Sequence[str]) -> None:
    for name in names:
        expected, found = (comparable(SERIES[name](run_dir)) for run_dir in (straight, resumed))
        if name in ("wandb", "trackio"):  # pictures and tables of the last second before a kill are lost
            tables = {key for key, values in expected.items() if not isinstance(values[0][1], int | float)}
            for key in tables:
                steps = [step for step, _ in found.pop(key, [])]
                assert steps == sorted(set(steps)) and set(steps) <= {step for step, _ in expected.pop(key)}
        assert found.keys() == expected.keys(), name
        for key, values in found.items():
            steps = [step for step, _ in values]
            assert steps == sorted(set(steps)), f"{name} {key}"
            assert [step for step, _ in expected[key]] == steps, f"{name} {key}"
            for (_, one), (_, other) in zip(expected[key], values, strict=True):
                assert one == pytest.approx(other, rel=1e-5) if isinstance(one, float) else one == other, (name, key)


FILES = ("csv", "tensorboard")


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The directory of a run without interruption, with these loggers."""

    @cache
    def train(*names: str) -> Path:
        directory = tmp_path_factory.mktemp("straight") / "run"
        ended = run(*SETTINGS, *logger_settings(*names), f"hydra.run.dir={directory}")
        assert ended.status == 0, ended.errors
        return directory

    return train


MOMENTS = [
    ("on_train_batch_start", 16),  # the last checkpoint is of step 14
    ("on_train_batch_start", 10),  # between two epochs: the checkpoint is of this step
    ("on_train_batch_end", 11),
    ("on_validation_batch_end", 20),
    ("on_validation_epoch_end", 20),
    ("on_train_end", 30),
    ("on_test_batch_end", 30),
    ("on_test_end", 30),
]


def marks_of(names: tuple[str, ...], step: int) -> tuple[pytest.MarkDecorator, ...]:
    """With all loggers a case takes a quarter of a minute."""
    if step == 16:
        return () if names == FILES else (pytest.mark.slow,)
    return (pytest.mark.thorough,)


@pytest.mark.parametrize(
    ("names", "moment", "step"),
    [
        pytest.param(names, moment, step, marks=marks_of(names, step))
        for names in (FILES, tuple(KINDS))
        for moment, step in MOMENTS
        if names != FILES or step < 20
    ],
    ids=str,
)
def test_killed_and_resumed_every_logger_has_each_step_once(
    tmp_path: Path, straight: Callable[..., Path], names: tuple[str, ...], moment: str, step: int
) -> None:
    kill(tmp_path / "run", moment, step, *logger_settings(*names))
    resumed = run(f"resume={tmp_path}/run", "~callbacks.kill")
    assert resumed.status == 0, resumed.errors
    assert "other values" not in resumed.output
    check_same(straight(*names), tmp_path / "run", names)


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.parametrize("kills", [(16,), (16, 24)], ids=["once", "twice"])
@pytest.mark.parametrize("uploaded", ["none of it", "a part"])
def test_wandb_online_goes_on_in_the_same_run(tmp_path: Path, uploaded: str, kills: tuple[int, ...]) -> None:
    """A kill keeps from the server what W&B has not sent yet: it is sent when the run goes on."""
    wait = f"[sh, -c, 'until [ -e {tmp_path}/uploaded ]; do sleep 0.1; done']"
    at = f"{{_target_: moments.CommandAt, moment: on_train_batch_start, step: 12, command: {wait}}}"
    pause = f"+callbacks.pause={at}" if uploaded == "a part" else "+callbacks.pause=null"
    online = [text.replace("mode: offline", "mode: online") for text in logger_settings("wandb")]
    places = (*online, f"hydra.run.dir={tmp_path}/run")
    without_tables = ("callbacks.most_confused=null", "callbacks.misclassified=null")
    with serving() as server:
        variables = {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": server.url}
        if uploaded == "a part":
            threading.Thread(target=touch_when_there, args=(server.uploads.history, tmp_path / "uploaded")).start()
            variables["WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL"] = "0.5"
        arguments = [*SETTINGS, *places, *without_tables, pause]
        for step in kills:
            sent = signal_at("on_train_batch_start", step)
            assert start(*arguments, sent, **variables).returncode == -signal.SIGKILL
            arguments = [f"resume={tmp_path}/run", "++callbacks.pause=null"]
            rows = len(server.uploads.history)
            assert (rows > 0) == (uploaded == "a part")
        resumed = start(*arguments, "~callbacks.kill", **variables)
        assert resumed.returncode == 0, resumed.stderr
        assert "W&B run: " in resumed.stdout and "W&B failed" not in resumed.stdout
        assert server.uploads.names == {run["name"] for run in server.uploads.runs} and len(server.uploads.names) == 1
        history = server.uploads.history
    assert [row["_step"] for row in history] == list(range(len(history)))
    # In a process of its own: with its end W&B's helper has written all.
    straight = start(*SETTINGS, *logger_settings("wandb"), *without_tables, f"hydra.run.dir={tmp_path}/straight")
    assert straight.returncode == 0 and "W&B failed" not in straight.stdout
    found, expected = (numbers(rows) for rows in (history, wandb_rows(tmp_path / "straight")))
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        assert [step for step, _ in found[key]] == [step for step, _ in values], key
        assert [value for _, value in found[key]] == pytest.approx([value for _, value in values], rel=1e-5), key


def touch_when_there(rows: Sequence[Any], path: Path) -> None:
    end = time.monotonic() + 120
    while not rows and time.monotonic() < end:
        time.sleep(0.05)
    path.touch()


def numbers(rows: Sequence[dict[str, Any]]) -> Series:
    """The numbers of W&B's rows, without the clock's."""
    found: Series = {}
    for row in rows:
        for key, value in row.items():
            if (
                isinstance(value, int | float)
                and not key.startswith("_")
                and not key.endswith(("_seconds", "global_step"))
            ):
                found.setdefault(key, []).append((row["trainer/global_step"], value))
    return comparable(found)


def test_going_back_to_an_earlier_checkpoint_forgets_what_came_after(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    every = "+callbacks.every={_target_: pytorch_lightning.callbacks.ModelCheckpoint, dirpath: '${paths.run_dir}/x', "
    every += "filename: 'step_{step}', auto_insert_metric_name: false, save_top_k: -1, every_n_train_steps: 7}"
    settings = (*SETTINGS, *logger_settings(*FILES), every)
    assert run(*settings, f"hydra.run.dir={directory}").status == 0
    before = {name: SERIES[name](directory) for name in FILES}
    again = run(*settings, f"hydra.run.dir={directory}", f"ckpt_path={directory}/x/step_14.ckpt", "data.mirror=false")
    assert again.status == 0, again.errors
    for name in FILES:
        found = comparable(SERIES[name](directory))
        for key, values in comparable(before[name]).items():
            assert [step for step, _ in found[key]] == [step for step, _ in values], (name, key)


def test_a_new_run_in_the_directory_is_not_mixed_with_the_earlier_one(tmp_path: Path) -> None:
    settings = (*SETTINGS, *logger_settings(*FILES), f"hydra.run.dir={tmp_path}/run", "trainer.max_epochs=1")
    assert run(*settings).status == 0
    assert run(*settings, "seed=2").status == 0
    steps = [step for step, _ in tensorboard_series(tmp_path / "run")["train/loss_step"]]
    assert steps == sorted(set(steps))
    assert sorted(path.name for path in (tmp_path / "run" / "csv").glob("metrics*")) == ["metrics.csv", "metrics_1.csv"]


def test_other_values_than_those_a_service_has_are_told_once(tmp_path: Path) -> None:
    settings = (*SETTINGS, *logger_settings("wandb"), f"hydra.run.dir={tmp_path}/run", "++trainer.max_steps=18")
    assert run(*settings).status == 0
    rows = len(wandb_rows(tmp_path / "run"))
    checkpoints = tmp_path / "run" / "checkpoints"
    earlier = shutil.copy(checkpoints / "last.ckpt", checkpoints / "earlier.ckpt")
    more = (*settings, f"ckpt_path={earlier}", "++trainer.max_steps=22")
    assert run(*more).status == 0
    assert len(wandb_rows(tmp_path / "run")) > rows
    again = run(*more, "model.optimizer.lr=0.5")
    assert again.status == 0
    assert again.output.count("W&B has other values of this run from step ") == 1


def test_a_metrics_file_that_was_cut_off_is_mended(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("a,step\r\n1.0,0\r\n2.0,1\r\n3.0")
    file = MetricsFile(str(tmp_path))
    file.cut(None, 2)
    file.log_metrics({"b": 5.0}, 2)
    file.save()
    with (tmp_path / "metrics.csv").open(newline="") as content:
        assert list(csv.DictReader(content)) == [
            {"a": "1.0", "b": "", "step": "0"},
            {"a": "2.0", "b": "", "step": "1"},
            {"a": "", "b": "5.0", "step": "2"},
        ]
    assert not [path for path in tmp_path.iterdir() if path.name != "metrics.csv"]


def test_a_key_like_a_formula_stays_one_column(tmp_path: Path) -> None:
    keys = ["=mine", "-x"]
    for step, key in enumerate([*keys, keys[0]]):
        file = MetricsFile(str(tmp_path))  # goes on in what is there, each time
        file.log_metrics({key: 0.5 - step}, step)
        file.save()
    again = MetricsFile(str(tmp_path))
    again.cut(2, 2)
    assert sorted(MetricsFile(str(tmp_path)).metrics_keys) == sorted([*keys, "step"])
    header, *rows = MetricsFile(str(tmp_path)).lines()
    assert [dict(zip(header, row, strict=True)) for row in rows] == [
        {"=mine": "0.5", "-x": "", "step": "0"},
        {"=mine": "", "-x": "-0.5", "step": "1"},
    ]
