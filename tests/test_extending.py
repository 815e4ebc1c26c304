"""docs/extending.md, followed to the letter in a copy of the project: its files are written, its commands run."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import forked
from image_classifier.engine.project import PROJECT_ROOT
from tiny import TINY_DATA

PAGE = (PROJECT_ROOT / "docs" / "extending.md").read_text()
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SECTIONS = dict(section.split("\n", 1) for section in PAGE.split("\n## ")[1:])
NOUNS = ("network", "loss", "metric", "transform", "data set", "callback", "logger", "scheduler")
KINDS = {f"A {noun}" for noun in NOUNS}
pytestmark = pytest.mark.slow  # half a minute, nearly all of it in the fixture
SHORT = ("trainer.max_epochs=1", "trainer=cpu", "callbacks.report=null")


def files_of(section: str) -> dict[str, str]:
    """Path and content of the blocks that name a file in their first line."""
    blocks = (content for language, content in BLOCK.findall(section) if language != "bash")
    named = (content.split("\n", 1) for content in blocks)
    return {first.removeprefix("# "): rest for first, rest in named}


def commands_of(section: str) -> list[list[str]]:
    lines = "".join(content for language, content in BLOCK.findall(section) if language == "bash").splitlines()
    return [shlex.split(line)[1:] if line.startswith("python ") else shlex.split(line) for line in lines]


def run_directory(kind: str, number: int) -> str:
    return f"runs/{kind.replace(' ', '_')}_{number}"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy with all files of the page, in which all commands of the page have run, shortened."""
    project = tmp_path_factory.mktemp("project")
    tracked = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=PROJECT_ROOT, capture_output=True)
    for name in tracked.stdout.decode().splitlines():
        if name.startswith(("src/", "configs/", "tests/", "scripts/")) or "/" not in name:
            (project / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PROJECT_ROOT / name, project / name)
    commands = []
    for kind, section in SECTIONS.items():
        for path, content in files_of(section).items():
            (project / path).parent.mkdir(exist_ok=True)
            (project / path).write_text(content)
        for number, command in enumerate(commands_of(section)):
            if command[0] == "train.py":
                own_data = any(argument.startswith("data=") for argument in command)
                command = [*command, *SHORT, *(() if own_data else TINY_DATA)]
                command.append(f"hydra.run.dir={run_directory(kind, number)}")
            commands.append(command)
            if kind == "A transform":  # the same without it, and a test by the checkpoint alone
                commands.append([part for part in command[:-1] if "film_grain" not in part])
                commands[-1].append(f"hydra.run.dir={run_directory(kind, 1)}")
                checkpoint = f"{run_directory(kind, 0)}/checkpoints/best.ckpt"
                commands.append(["eval.py", f"ckpt_path={checkpoint}", "hydra.run.dir=runs/evaluated"])
    path = os.pathsep.join([str(project / "src"), str(project / "tests")])
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(project), "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    for program, *arguments in commands:
        start = ["-m", "pytest", "-n0", "-p", "no:cacheprovider"] if program == "pytest" else [program]
        command = [sys.executable, *start, *arguments]
        done = forked.run(command, cwd=project, env=environment, capture_output=True)
        assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return project


def test_every_kind_has_a_section_of_at_most_forty_lines_of_code() -> None:
    assert set(SECTIONS) == KINDS
    for kind, section in SECTIONS.items():
        files = {path: content for path, content in files_of(section).items() if not path.startswith("tests/")}
        assert sum(len(content.splitlines()) for content in files.values()) <= 40, kind
        assert len(files) <= 2, kind
        assert not any((PROJECT_ROOT / path).exists() for path in files_of(section)), kind


def read(project: Path, kind: str, name: str, number: int = 0) -> str:
    return (project / run_directory(kind, number) / name).read_text()


def metrics(project: Path, kind: str, number: int = 0) -> dict[str, float]:
    return json.loads(read(project, kind, "metrics.json", number))


def test_network(project: Path) -> None:
    assert metrics(project, "A network")["parameters"] == 16 * 9 + 16 + 16 * 4 + 4


def test_loss(project: Path) -> None:
    config = yaml.safe_load(read(project, "A loss", "config.yaml"))
    assert config["model"]["loss"]["_target_"].endswith(".ConfidencePenalty") and config["model"]["loss"]["beta"] == 0.3
    found = metrics(project, "A loss")
    assert found["train/loss"] < found["val/loss"]  # by the entropy, which is near log(4) after one epoch


def test_metric(project: Path) -> None:
    assert 0.5 < metrics(project, "A metric")["test/top3"] <= 1  # of four classes
    own = metrics(project, "A metric", 1)
    matrix = [
        line.split(",")[1:] for line in read(project, "A metric", "confusion_matrix/test.csv", 1).splitlines()[1:]
    ]
    recalls = [int(row[index]) / sum(map(int, row)) for index, row in enumerate(matrix)]
    assert own["test/worst_recall"] == pytest.approx(min(recalls), abs=1e-6)
    assert (project / run_directory("A metric", 1) / "checkpoints" / "best.ckpt").exists()


def test_transform(project: Path) -> None:
    """Another training than without it, from the same start, and a checkpoint that needs no further permission."""
    run = project / run_directory("A transform", 0)
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["data"]["augmentation"]["transforms"] == [
        {"_target_": "image_classifier.data.film_grain.FilmGrain", "strength": 0.1}
    ]
    without = metrics(project, "A transform", 1)
    with_it = metrics(project, "A transform")
    assert with_it["train/loss"] != without["train/loss"] and with_it["parameters"] == without["parameters"]
    assert json.loads((project / "runs" / "evaluated" / "metrics.json").read_text())["test/acc"] == with_it["test/acc"]


def test_data_set(project: Path) -> None:
    assert metrics(project, "A data set")["test/acc"] > 0.9
    assert read(project, "A data set", "confusion_matrix/test.csv").startswith("true \\ predicted,across,along")


def test_callback(project: Path) -> None:
    assert metrics(project, "A callback")["train/gradient_norm"] > 0


def test_logger(project: Path) -> None:
    for number in range(2):
        lines = [json.loads(line) for line in read(project, "A logger", "metrics.jsonl", number).splitlines()]
        logged = {key for line in lines for key in line}
        assert {"val/acc", "test/acc", "model.optimizer.lr"} <= logged
    assert list((project / run_directory("A logger", 1) / "tensorboard").iterdir())


def test_scheduler(project: Path) -> None:
    config = yaml.safe_load(read(project, "A scheduler", "config.yaml"))
    assert config["model"]["scheduler"]["warmup"] == 0.2
    assert metrics(project, "A scheduler")["epochs"] == 1
