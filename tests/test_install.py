"""An installation that is no editable one: the package from a wheel, away from the repository."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import forked
from image_classifier.engine.project import PROJECT_ROOT
from tiny import TINY

SETTINGS = (*TINY, "trainer.max_epochs=1", "data.num_samples=40", "logger=none", "confusion_matrix=none")
COMPOSE = """
import sys
from image_classifier import pipeline
from image_classifier.engine.launch.configuration import compose
import image_classifier
print("package:", image_classifier.__file__)
pipeline.train(compose("train", sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the package as `pip install .` puts it there, built from a copy of the repository."""
    directory = tmp_path_factory.mktemp("install")
    source = directory / "source"
    for name in ("src", "configs"):
        shutil.copytree(PROJECT_ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(PROJECT_ROOT / name, source / name)
    (source / "configs" / "local" / "default.yaml").write_text("seed: 3\n")  # of this machine only
    pip = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--offline", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--python", sys.executable, "--target", directory / "site", source], check=True)
    shutil.rmtree(source)
    return directory / "site"


@pytest.fixture
def run_installed(installed: Path, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*command: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PYTHONPATH": str(installed)}
        (tmp_path / "elsewhere").mkdir()
        program = [sys.executable, *command]
        return forked.run(program, cwd=tmp_path / "elsewhere", env=environment, capture_output=True)

    return run


def test_the_wheel_holds_the_configs_but_those_of_this_machine(installed: Path) -> None:
    expected = {path.relative_to(PROJECT_ROOT / "configs") for path in (PROJECT_ROOT / "configs").rglob("*.yaml")}
    found = {
        path.relative_to(installed / "image_classifier" / "configs")
        for path in (installed / "image_classifier" / "configs").rglob("*.yaml")
    }
    assert found == expected - {Path("local/default.yaml")}


@pytest.mark.slow
def test_composed_in_a_script_it_writes_to_the_working_directory(run_installed: Callable, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(COMPOSE)
    done = run_installed(str(tmp_path / "script.py"), *SETTINGS)
    assert done.returncode == 0, done.stderr
    assert f"package: {PROJECT_ROOT}" not in done.stdout
    (run_dir,) = (tmp_path / "elsewhere" / "outputs" / "train").iterdir()
    assert (run_dir / "metrics.json").is_file()


@pytest.mark.slow
def test_a_copy_of_the_commands_keeps_its_own_configs_and_outputs(run_installed: Callable, tmp_path: Path) -> None:
    project = tmp_path / "project"
    shutil.copytree(PROJECT_ROOT / "configs", project / "configs", ignore=shutil.ignore_patterns("default.yaml~"))
    shutil.copy(PROJECT_ROOT / "train.py", project)
    (project / "configs" / "model" / "mine.yaml").write_text("defaults: [mlp]\nnet: {hidden_sizes: [3]}\n")
    done = run_installed(str(project / "train.py"), *SETTINGS, "model=mine", "model.net.hidden_sizes=[3]")
    assert done.returncode == 0, done.stderr
    (run_dir,) = (project / "outputs" / "train").iterdir()
    assert (run_dir / "metrics.json").is_file()
    assert not list((tmp_path / "elsewhere").iterdir())
