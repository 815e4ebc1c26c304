"""Where a run comes from: the commit and the command."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from image_classifier.engine.project import PROJECT_ROOT
from image_classifier.engine.terminal import shell_joined


def git_commit() -> str:
    """The commit that this project is at, or why it is not known."""
    command = ["git", "rev-parse", "--verify", "HEAD"]
    environment = os.environ | {"LC_ALL": "C"}
    try:
        answer = subprocess.run(command, cwd=PROJECT_ROOT, env=environment, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown: git cannot be run"
    if answer.returncode == 0:
        return answer.stdout.strip()
    if "not a git repository" in answer.stderr:
        return "not in a git repository"
    return f"unknown: {(answer.stderr.splitlines() or ['git says nothing'])[0]}"


def command_of_job(config_name: str, overrides: Sequence[str]) -> str:
    """The command that runs a job of a sweep alone."""
    return shell_joined(["python", f"{config_name}.py", *overrides])


def within_project(path: Path) -> str:
    """A path as seen from the project root, where it lies inside: true on other machines too."""
    absolute = path.resolve()
    return str(absolute.relative_to(PROJECT_ROOT) if absolute.is_relative_to(PROJECT_ROOT) else absolute)
