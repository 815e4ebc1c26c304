"""`make rename` in a clone: names, refusals, and a project that still works."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from image_classifier.engine.project import PROJECT_ROOT

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


def rename(directory: Path, name: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "scripts/rename.py", name], cwd=directory, capture_output=True, text=True)


@pytest.mark.parametrize("name", ["", "9lives", "My_Project", "my-project", "class", "torch", "json", OLD_NAME])
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


@pytest.mark.slow
def test_the_renamed_project_works_under_its_new_name_only(clone: Path) -> None:
    done = rename(clone, NEW_NAME)
    assert done.returncode == 0, done.stderr
    for old_name in (OLD_NAME, OLD_NAME.replace("_", "-")):
        found = subprocess.run(["git", "grep", "-l", old_name], cwd=clone, capture_output=True, text=True).stdout
        assert found == ""
    assert (clone / "README.md").read_text().startswith("# Shoe sorter\n")
    assert "project: shoe-sorter" in (clone / "configs/logger/wandb.yaml").read_text()
    assert 'name = "shoe-sorter"' in (clone / "pyproject.toml").read_text()
    environment = {**os.environ, "PYTHONPATH": str(clone / "src"), "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "tests/test_pipeline.py", "-k", "last_digit"]
    tests = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True)
    assert tests.returncode == 0, tests.stdout
    assert "1 passed" in tests.stdout
