"""Bad command lines of a seeded generator: each ends with status 2, one message, no traceback, no run directory."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from sweeping import Outcome, run

from bad_command_lines import BadLine, bad_lines
from image_classifier import commands
from image_classifier.engine.overrides import swept_keys
from tiny import TINY

SETTINGS = (*TINY, "trainer.max_epochs=2", "+trainer.enable_progress_bar=false", "logger=none")
COUNT = int(os.environ.get("BAD_COMMAND_LINES", "60"))
SEED = int(os.environ.get("BAD_COMMAND_LINES_SEED", "1"))
TOLD_AFTER_AN_EPOCH = {"monitor.metric=val/f1"}  # any callback may log a metric: what is logged shows in an epoch
SECONDS = 60.0  # none may take longer: most take half a second


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the words in capitals stand for."""
    root = tmp_path_factory.mktemp("places")
    assert run(*SETTINGS, f"hydra.run.dir={root}/trained").status == 0
    (root / "directory").mkdir()
    (root / "empty_directory").mkdir()
    torch.save({"state_dict": {}}, root / "foreign.ckpt")
    (root / "text.txt").write_text("no checkpoint, no picture")
    (root / "empty.ckpt").write_bytes(b"")
    Image.new("L", (8, 8)).save(root / "picture.png")
    return {
        "CHECKPOINT": f"{root}/trained/checkpoints/last.ckpt",
        "TRAINED": f"{root}/trained",
        "EMPTY_DIRECTORY": f"{root}/empty_directory",
        "DIRECTORY": f"{root}/directory",
        "FOREIGN": f"{root}/foreign.ckpt",
        "TEXT": f"{root}/text.txt",
        "EMPTY": f"{root}/empty.ckpt",
        "PICTURE": f"{root}/picture.png",
    }


@pytest.fixture
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    yield tmp_path


def attempt(line: BadLine, places: dict[str, str], directory: Path) -> tuple[Outcome, float]:
    arguments = []
    for argument in line.arguments:
        for word, path in places.items():
            argument = argument.replace(word, path)
        arguments.append(argument)
    typed = {argument.partition("=")[0] for argument in line.arguments}
    before: list[str] = [*SETTINGS] if line.command in ("train", "multirun") else []
    if line.command in ("evaluate", "predict", "export") and "ckpt_path" not in typed:
        before.append(f"ckpt_path={places['CHECKPOINT']}")
    if line.command == "predict" and "input" not in typed:
        before.append(f"input={places['TEXT']}")
    if line.command == "multirun":
        before.append("-m")
    if "hydra.run.dir" not in typed:
        before.append(f"hydra.run.dir={directory}/out/run")
    if "hydra.sweep.dir" not in typed:
        before.append(f"hydra.sweep.dir={directory}/out/sweep")
    command = commands.train if line.command == "multirun" else getattr(commands, line.command)
    start = time.monotonic()
    outcome = run(*before, *arguments, command=command)
    return outcome, time.monotonic() - start


def faults(line: BadLine, outcome: Outcome, seconds: float, directory: Path) -> list[str]:
    """What is wrong with how a line was refused."""
    said = [line for line in outcome.errors.splitlines() if line.strip()]
    found = []
    goes_on = line.command == "multirun" and outcome.status == 1 and "did not finish" in outcome.errors
    if goes_on and line.arguments[0].partition("=")[0] in swept_keys(line.arguments):
        return []  # the jobs with other values are trained
    if outcome.status != 2:
        found.append(f"status {outcome.status}")
    if "Traceback" in outcome.errors + outcome.output:
        found.append("a traceback")
    if not 1 <= len(said) <= 3:
        found.append(f"{len(said)} lines")
    if seconds > SECONDS:
        found.append(f"{seconds:.0f} seconds")
    if (directory / "out").exists() and not TOLD_AFTER_AN_EPOCH & set(line.arguments):
        found.append("a directory")
    return found


# What only torch, Lightning, joblib or the file system find, once they are called.
FOUND_LATE = [
    BadLine("train", ["+trainer.plugins=x"]),
    BadLine("predict", ["input=PICTURE", "trainer.accelerator=tpu"]),
    BadLine("predict", ["input=PICTURE", "+trainer.benchmark=7"]),
    BadLine("evaluate", ["+trainer.plugins=[x]"]),
    BadLine("export", ["output=TEXT/a.onnx", "check_images=1"]),
    BadLine("export", ["output=a.onnx", "+data.image_size=99"]),
    BadLine("train", ["data.num_samples=99999999999999"]),
    BadLine("predict", ["input=PICTURE", "+trainer.limit_predict_batches=1"]),
    BadLine("predict", ["input=PICTURE", "+trainer.fast_dev_run=3"]),
    BadLine("multirun", ["seed=range(3,1)"]),
    BadLine("multirun", ["seed=1,2", "hydra/launcher=joblib", "hydra.launcher.n_jobs=0"]),
]


@pytest.mark.sampled(every=4)
@pytest.mark.parametrize("line", FOUND_LATE, ids=lambda line: " ".join((line.command, *line.arguments)))
def test_mistakes_that_others_find(line: BadLine, places: dict[str, str], working_directory: Path) -> None:
    outcome, seconds = attempt(line, places, working_directory)
    assert faults(line, outcome, seconds, working_directory) == [], outcome.errors[-2000:]


@pytest.mark.sampled(every=3)
@pytest.mark.parametrize("line", bad_lines(SEED, COUNT), ids=lambda line: " ".join((line.command, *line.arguments)))
def test_bad_command_line(line: BadLine, places: dict[str, str], working_directory: Path) -> None:
    outcome, seconds = attempt(line, places, working_directory)
    assert faults(line, outcome, seconds, working_directory) == [], outcome.errors[-2000:]
