"""The commit and the command of a run, wherever it runs."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from image_classifier.engine.launch.command_line import command_line
from image_classifier.engine.runs import provenance


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(provenance, "PROJECT_ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    return tmp_path


def commit(project: Path) -> str:
    for arguments in (["init"], ["-c", "user.name=a", "-c", "user.email=b", "commit", "--allow-empty", "-m", "c"]):
        subprocess.run(["git", *arguments], cwd=project, check=True, capture_output=True)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=project, check=True, capture_output=True, text=True)
    return head.stdout.strip()


def test_commit(project: Path) -> None:
    assert provenance.git_commit() == "not in a git repository"
    subprocess.run(["git", "init"], cwd=project, check=True, capture_output=True)
    assert provenance.git_commit() == "unknown: fatal: Needed a single revision"
    assert provenance.git_commit() != commit(project) == provenance.git_commit()


def test_no_git_in_path(project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.git_commit() == "unknown: git cannot be run"


def test_repository_of_another_user(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit(project)
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    assert provenance.git_commit().startswith("unknown: fatal: detected dubious ownership in repository at ")


def test_command_can_be_pasted(monkeypatch: pytest.MonkeyPatch) -> None:
    typed = ["train.py", 'data.root="/a b(1)/it\'s"', "model.net.hidden_sizes=[16, 32]"]
    monkeypatch.setattr(sys, "argv", typed)
    assert shlex.split(command_line()) == ["python", *typed]
