"""`make rename` and `make new`: names, refusals, placeholders, and a project that still works."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import forked
from image_classifier.engine.project import PROJECT_ROOT
from tiny import TINY

# The tests must also pass in a renamed copy: its present name is looked up.
OLD_NAME = next((PROJECT_ROOT / "src").glob("*/__init__.py")).parent.name
NEW_NAME = "shoe_sorter"


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone of the project with everything of the working tree committed."""
    target = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", str(PROJECT_ROOT), str(target)], check=True)
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    tracked = subprocess.run(listing, cwd=PROJECT_ROOT, check=True, capture_output=True, text=True).stdout
    for path in filter(None, tracked.split("\0")):
        if (PROJECT_ROOT / path).is_file():
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            (target / path).write_bytes((PROJECT_ROOT / path).read_bytes())
    git(target, "config", "user.name", "Test")
    git(target, "config", "user.email", "test@example.com")
    git(target, "add", "--all")
    git(target, "commit", "--quiet", "--allow-empty", "--message", "working tree")
    return target


def git(directory: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=directory, check=True, capture_output=True, text=True).stdout


def rename(directory: Path, name: str, without: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "scripts/rename.py", name, "--without", without]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True)


@pytest.mark.parametrize(
    "name",
    [
        *("", "9lives", "My_Project", "my-project", "class", "match", "torch", "pytest", "json", OLD_NAME),
        *("train", "eval", "predict", "export", "tests", "configs", "docs", "scripts", "src", "data", "outputs"),
    ],
)
def test_bad_names_are_refused_and_nothing_changes(clone: Path, name: str) -> None:
    done = rename(clone, name)
    assert done.returncode != 0
    assert done.stderr.startswith("error: expected ") and "make rename NAME=" in done.stderr
    assert git(clone, "status", "--porcelain") == ""


def test_a_dirty_tree_is_refused(clone: Path) -> None:
    (clone / "README.md").write_text("changed")
    done = rename(clone, NEW_NAME)
    assert done.returncode != 0
    assert "README.md" in done.stderr and "commit or stash" in done.stderr
    assert (clone / "src" / OLD_NAME).is_dir()


@pytest.mark.parametrize(
    ("without", "message"),
    [
        ("experiment/nothing", "but found experiment/nothing, which configs/ does not have"),
        ("experiment", "expected options such as experiment/best_gpu but found experiment"),
        ("../secrets", "expected options such as"),
        ("data/fashion_mnist", "which configs/train.yaml names"),
        ("data/in_memory", "which configs/data/"),
        ("model/mlp", "which configs/experiment/keras_tutorial.yaml names"),
    ],
)
def test_options_that_others_need_stay(clone: Path, without: str, message: str) -> None:
    done = rename(clone, NEW_NAME, without)
    assert done.returncode != 0 and message in done.stderr
    assert git(clone, "status", "--porcelain") == ""


@pytest.mark.slow
def test_the_renamed_project_works_under_its_new_name_only(clone: Path, tmp_path: Path) -> None:
    commit = git(clone, "rev-parse", "HEAD").strip()
    old_checkpoint = train(clone, OLD_NAME, tmp_path / "old")
    done = rename(clone, NEW_NAME, "experiment/best_gpu, data/kmnist")
    assert done.returncode == 0, done.stderr
    assert "git grep -n TODO:" in done.stdout
    git(clone, "add", "--all")
    for old_name in (OLD_NAME, OLD_NAME.replace("_", "-")):
        found = subprocess.run(["git", "grep", "-l", old_name], cwd=clone, capture_output=True, text=True).stdout
        assert set(found.splitlines()) <= {f"src/{NEW_NAME}/engine/former_names.py", ".template.json"}
    origin = json.loads((clone / ".template.json").read_text())
    expected = {"commit": commit, "name": NEW_NAME, "without": ["experiment/best_gpu", "data/kmnist"]}
    assert origin == expected | {"source": str(PROJECT_ROOT)}
    assert (
        not (clone / "configs/experiment/best_gpu.yaml").exists() and not (clone / "configs/data/kmnist.yaml").exists()
    )
    readme = (clone / "README.md").read_text()
    assert readme.startswith("# Shoe sorter\n\n*TODO: ") and "TODO: the accuracy" in readme
    assert "docs/pictures" not in readme and "93.16" not in readme
    assert "make new" not in readme and "<!--" not in readme and "## Make it yours\n\nLater versions" in readme
    assert "TODO: how to report" in (clone / "SECURITY.md").read_text()
    assert "TODO: the holder of the licence" in (clone / "LICENSE").read_text()
    assert "project: shoe-sorter" in (clone / "configs/logger/wandb.yaml").read_text()
    metadata = (clone / "pyproject.toml").read_text()
    assert 'name = "shoe-sorter"' in metadata and 'description = "TODO: ' in metadata
    environment = {**os.environ, "PYTHONPATH": str(clone / "src"), "PYTHONSAFEPATH": "1"}
    command = [
        sys.executable,
        "eval.py",
        f"ckpt_path={old_checkpoint}",
        f"hydra.run.dir={tmp_path}/eval",
        "trainer=cpu",
    ]
    done = forked.run(command, cwd=clone, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    old, new = (json.loads((tmp_path / run / "metrics.json").read_text()) for run in ("old", "eval"))
    assert new["test/acc"] == old["test/acc"]


def train(directory: Path, name: str, run_dir: Path) -> Path:
    """A checkpoint of a network of the project's own, made under its present name."""
    command = [sys.executable, "train.py", *TINY, "logger=none", "confusion_matrix=none", f"hydra.run.dir={run_dir}"]
    environment = {**os.environ, "PYTHONPATH": str(directory / "src"), "PYTHONSAFEPATH": "1"}
    forked.run(command, cwd=directory, env=environment, check=True, capture_output=True)
    checkpoint = run_dir / "checkpoints" / "best.ckpt"
    assert f"{name}.models".encode() in checkpoint.read_bytes()
    return checkpoint


# A project with a history of its own, and what comes from the template later.


def new(directory: Path, destination: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "scripts/new_project.py", NEW_NAME, str(destination), *arguments]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True)


def update(directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "scripts/update.py"], cwd=directory, capture_output=True, text=True)


def commit_file(directory: Path, path: str, text: str) -> None:
    (directory / path).write_text(text)
    git(directory, "add", path)
    git(directory, *AUTHOR, "commit", "--quiet", "--message", f"Change {path}")


AUTHOR = ("-c", "user.name=Test", "-c", "user.email=test@example.com")


@pytest.fixture
def project(clone: Path, tmp_path: Path) -> Path:
    git(clone, "remote", "remove", "origin")  # the clone is the template here
    done = new(clone, tmp_path / "sorter", "--without", "experiment/best_gpu")
    assert done.returncode == 0, done.stderr
    return tmp_path / "sorter"


def test_a_new_project_has_one_commit_and_leaves_the_template_alone(clone: Path, project: Path) -> None:
    assert git(project, "rev-list", "--count", "--all").strip() == "1"
    assert git(project, "status", "--porcelain") == git(clone, "status", "--porcelain") == ""
    assert git(project, "remote").strip() == "" and (project / "src" / NEW_NAME).is_dir()
    assert (clone / "src" / OLD_NAME).is_dir() and not (project / "configs/experiment/best_gpu.yaml").exists()
    assert json.loads((project / ".template.json").read_text())["source"] == str(clone)


@pytest.mark.parametrize("place", ["inside", "taken"])
def test_places_for_a_new_project_that_are_refused(clone: Path, tmp_path: Path, place: str) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    done = new(clone, clone / "sub" if place == "inside" else tmp_path / "taken")
    assert done.returncode != 0 and done.stderr.startswith("error: expected a directory ")
    assert git(clone, "status", "--porcelain") == "" and [path.name for path in (tmp_path / "taken").iterdir()] == [
        "file"
    ]


def test_a_new_project_that_cannot_be_leaves_nothing(clone: Path, tmp_path: Path) -> None:
    done = new(clone, tmp_path / "sorter", "--without", "experiment/nothing")
    assert done.returncode != 0 and "experiment/nothing" in done.stderr and not (tmp_path / "sorter").exists()


@pytest.mark.slow
@pytest.mark.parametrize("in_place", [False, True])
def test_an_update_brings_the_templates_changes_beside_the_projects(
    clone: Path, tmp_path: Path, project: Path, in_place: bool
) -> None:
    if in_place:  # a clone with the template's history, renamed and committed as `make rename` says
        project = tmp_path / "fork"
        subprocess.run(["git", "clone", "--quiet", str(clone), str(project)], check=True)
        assert rename(project, NEW_NAME, "experiment/best_gpu").returncode == 0
        git(project, "add", "--all")
        git(project, *AUTHOR, "commit", "--quiet", "--message", "Ours now")
    cnn = f"src/{NEW_NAME}/models/cnn.py"
    ours = (project / cnn).read_text().replace('"""A small convolutional', '"""Our small convolutional')
    commit_file(project, cnn, ours)
    commit_file(project, "README.md", (project / "README.md").read_text().replace("*TODO: what is", "*Leaves. What is"))
    for step in (1, 2):  # also an update after an update
        source = f"src/{OLD_NAME}/models/cnn.py"
        commit_file(clone, source, (clone / source).read_text() + f"\n\nSTEP = {step}  # of {OLD_NAME}\n")
        commit_file(clone, f"src/{OLD_NAME}/models/new_{step}.py", f"import {OLD_NAME}\n")
        commit_file(clone, "configs/experiment/best_gpu.yaml", f"# {step}\n")  # left out: stays so
        done = update(project)
        assert done.returncode == 0, done.stdout + done.stderr
        text = (project / cnn).read_text()
        assert text.startswith('"""Our small') and f"STEP = {step}  # of {NEW_NAME}\n" in text
        assert (project / f"src/{NEW_NAME}/models/new_{step}.py").read_text() == f"import {NEW_NAME}\n"
    assert "*Leaves. What is" in (project / "README.md").read_text()
    assert not (project / "configs/experiment/best_gpu.yaml").exists()
    assert not (project / "src" / OLD_NAME).exists() and git(project, "status", "--porcelain") == ""
    assert "has not changed since" in update(project).stdout


def test_a_conflict_is_left_to_the_user_as_in_any_merge(clone: Path, project: Path) -> None:
    commit_file(clone, f"src/{OLD_NAME}/models/cnn.py", "theirs = 1\n")
    commit_file(project, f"src/{NEW_NAME}/models/cnn.py", "ours = 1\n")
    done = update(project)
    assert done.returncode != 0 and "git merge --abort" in done.stderr and "cnn.py" in done.stdout
    git(project, "merge", "--abort")
    assert (project / f"src/{NEW_NAME}/models/cnn.py").read_text() == "ours = 1\n"


def test_what_cannot_be_updated_is_told(clone: Path, project: Path) -> None:
    assert "expected .template.json" in update(clone).stderr
    (project / "README.md").write_text("changed")
    assert "commit or stash" in update(project).stderr
    git(project, "checkout", "README.md")
    origin = json.loads((project / ".template.json").read_text()) | {"source": "/nowhere"}
    commit_file(project, ".template.json", json.dumps(origin))
    assert "expected the template at /nowhere" in update(project).stderr
