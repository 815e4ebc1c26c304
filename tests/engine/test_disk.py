"""Disks that fill, become read-only, vanish: one line, the checkpoints so far whole, no half file; and it goes on."""

import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from sweeping import Outcome, run
from system_packages import as_root

from image_classifier import commands
from image_classifier.engine.launch import objects
from run_directories import differences
from tiny import TINY

SETTINGS = (*TINY, "trainer.max_epochs=3", "data.batch_size=12", "trainer.precision=32-true")
SETTINGS += ("callbacks.early_stopping=null", "+trainer.enable_progress_bar=false")
NO_LOGGER = "logger=none"


@pytest.fixture(autouse=True)
def trust_the_callbacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "EXECUTION_WHITELIST", (*objects.EXECUTION_WHITELIST, "moments.*"))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mount a disk in memory."""
    if (root := as_root()) is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("only root may mount a disk")
    path = tmp_path / "disk"

    def mount(size: str) -> Path:
        path.mkdir()
        subprocess.run([*root, "mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)], check=True)
        return path

    yield mount
    for _ in range(2):  # one may lie upon another
        subprocess.run([*root, "umount", "-l", str(path)], check=False, stderr=subprocess.DEVNULL)


def train(directory: Path, *arguments: str) -> Outcome:
    return run(*SETTINGS, *arguments, f"hydra.run.dir={directory}")


def at(kind: str, moment: str, step: int = 0, **settings: str) -> str:
    further = "".join(f", {key}: {value}" for key, value in settings.items())
    return f"+callbacks.disk={{_target_: moments.{kind}, moment: {moment}, step: {step}{further}}}"


def as_list(*command: str) -> str:
    """A command of root's in Hydra's grammar."""
    return "[" + ",".join(f"'{word}'" for word in (*(as_root() or ()), *command)) + "]"


def told_once(outcome: Outcome) -> str:
    assert outcome.status == 2, outcome.errors
    assert "Traceback" not in outcome.errors
    (line,) = (line for line in outcome.errors.splitlines() if line.startswith("error: "))
    return line


def half_files(directory: Path) -> list[str]:
    return [path.name for path in directory.rglob(".*") if path.name not in (".hydra", ".lock")]


# Where a disk fills, and the step of the checkpoint that is there then; None: there is none yet. Ten steps an epoch.
MOMENTS = [
    ("on_train_start", 0, None),
    ("on_train_epoch_end", 10, None),
    ("on_train_batch_start", 15, 10),
    ("on_validation_epoch_end", 20, 10),
    ("on_train_end", 30, 30),
    ("on_test_start", 30, 30),
    ("on_test_epoch_end", 30, 30),
]


@pytest.mark.sampled(every=2)
@pytest.mark.parametrize(("moment", "step", "saved"), MOMENTS)
def test_a_disk_that_fills(
    disk: Callable[[str], Path], tmp_path: Path, moment: str, step: int, saved: int | None
) -> None:
    run_dir = disk("4m") / "run"
    line = told_once(train(run_dir, NO_LOGGER, at("FillAt", moment, step)))
    at_start = "expected room for the checkpoints ("
    assert (at_start if step == 0 else "No space left on device; make room or choose another disk with") in line
    assert half_files(run_dir) == []
    last = run_dir / "checkpoints" / "last.ckpt"
    if saved is None:
        assert not last.exists()
        return
    assert torch.load(last, weights_only=True)["global_step"] == saved
    assert line.endswith(f"the checkpoints so far are whole: resume={run_dir}")
    (run_dir.parent / "filler").unlink()
    assert run(f"resume={run_dir}", "~callbacks.disk").status == 0
    assert train(tmp_path / "straight", NO_LOGGER).status == 0
    assert differences(tmp_path / "straight", run_dir) == []


@pytest.mark.parametrize("logger", ["tensorboard", "csv", "[tensorboard,csv]"])
def test_a_disk_that_fills_under_loggers(disk: Callable[[str], Path], logger: str) -> None:
    run_dir = disk("4m") / "run"
    outcome = train(run_dir, f"logger={logger}", at("FillAt", "on_train_batch_start", 12))
    told_once(outcome)
    assert half_files(run_dir) == []
    assert torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 10


@pytest.mark.parametrize("moment", ["on_train_batch_start", "on_test_start"])
def test_a_disk_that_becomes_read_only(disk: Callable[[str], Path], moment: str) -> None:
    path = disk("4m")
    command = as_list("sh", "-c", f"mount --bind {path} {path} && mount -o remount,bind,ro {path}")
    outcome = train(path / "run", NO_LOGGER, at("CommandAt", moment, 12, command=command))
    assert "Read-only file system" in told_once(outcome)
    assert torch.load(path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] in (10, 30)
    assert half_files(path / "run") == []


@pytest.mark.parametrize("settings", ["model.net.hidden_sizes=[16]", "model.net.hidden_sizes=[400,400]"])
def test_a_disk_without_room_is_refused_at_the_start(disk: Callable[[str], Path], settings: str) -> None:
    large = "400" in settings  # 1.6 MB of weights, and the optimizer's averages twice that
    path = disk("6m" if large else "700k")
    line = told_once(train(path / "outputs" / "run", NO_LOGGER, settings))
    assert ("expected room for the checkpoints (" if large else "of room are left on that disk") in line
    assert list(path.iterdir()) == []


def test_a_directory_that_vanishes_comes_back_with_all_that_follows(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    outcome = train(run_dir, NO_LOGGER, at("RemoveAt", "on_train_batch_start", 12))
    assert outcome.status == 0, outcome.errors
    assert (run_dir / "metrics.json").is_file()
    assert torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 30


def test_a_disk_that_vanishes_for_good(disk: Callable[[str], Path]) -> None:
    path = disk("4m")
    command = as_list("sh", "-c", f"umount -l {path} && mount -t tmpfs -o ro tmpfs {path}")
    line = told_once(train(path / "run", NO_LOGGER, at("CommandAt", "on_train_batch_start", 12, command=command)))
    assert f"expected {path}/run" in line and "Read-only file system" in line


def test_a_limit_of_file_sizes(tmp_path: Path) -> None:
    """What a quota looks like to a program; it needs no rights to set."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        line = told_once(train(tmp_path / "run", NO_LOGGER))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "File too large" in line
    assert not (tmp_path / "run" / "checkpoints" / "last.ckpt").exists() and half_files(tmp_path / "run") == []


@pytest.mark.parametrize("command", ["eval", "predict", "multirun"])
def test_other_commands(disk: Callable[[str], Path], tmp_path: Path, command: str) -> None:
    from PIL import Image

    assert train(tmp_path / "trained", NO_LOGGER).status == 0
    checkpoint = f"ckpt_path={tmp_path}/trained/checkpoints/best.ckpt"
    path = disk("2m")
    if command == "eval":
        shutil.copytree(tmp_path / "trained", path / "trained")
        (path / "filler").write_bytes(bytes(2**20 - 2**17))
        outcome = run(checkpoint, f"hydra.run.dir={path}/run", NO_LOGGER, command=commands.evaluate)
        assert "of room are left on that disk" in told_once(outcome)
        assert not (path / "run").exists()
    elif command == "predict":
        for number in range(3):
            Image.new("L", (8, 8)).save(tmp_path / f"{number}.png")
        (path / "filler").write_bytes(bytes(2**21))
        outcome = run(
            checkpoint,
            *(f"input={tmp_path}", f"output={path}/predictions.csv", f"hydra.run.dir={tmp_path}/predict"),
            command=commands.predict,
        )
        assert "No space left on device" in told_once(outcome)
        assert [found.name for found in path.iterdir()] == ["filler"]
    else:
        outcome = run("-m", *SETTINGS, NO_LOGGER, at("FillAt", "on_train_batch_start", 5), f"hydra.sweep.dir={path}/s")
        assert outcome.status == 1 and "Traceback" not in outcome.errors + outcome.output, outcome.errors
