"""Where a run comes from: the commit and the command."""

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from image_classifier.engine.launch.configuration import PROJECT_ROOT


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


def command_line() -> str:
    """The command as it would be typed again; of a job of a sweep, the one that runs this job alone."""
    if HydraConfig.initialized() and (hydra_cfg := HydraConfig.get()).mode == RunMode.MULTIRUN:
        return command_of_job(str(hydra_cfg.job.config_name), hydra_cfg.overrides.task)
    return shlex.join(["python", *sys.argv])


def command_of_job(config_name: str, overrides: Sequence[str]) -> str:
    """The command that runs a job of a sweep alone."""
    return shlex.join(["python", f"{config_name}.py", *overrides])


def within_project(path: Path) -> str:
    """A path as seen from the project root, where it lies inside: true on other machines too."""
    absolute = path.resolve()
    return str(absolute.relative_to(PROJECT_ROOT) if absolute.is_relative_to(PROJECT_ROOT) else absolute)
