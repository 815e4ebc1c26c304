"""Where a run comes from: the commit and the command."""

import shlex
import subprocess
import sys
from pathlib import Path

PROJECT_ROOT = Path(__file__).resolve().parents[2]


def git_commit() -> str:
    """The commit that this project is at."""
    answer = subprocess.run(["git", "rev-parse", "HEAD"], cwd=PROJECT_ROOT, capture_output=True, text=True, check=False)
    return answer.stdout.strip() or "not in a git repository"


def command_line() -> str:
    """The command as it would be typed again."""
    return shlex.join(sys.argv)


def within_project(path: Path) -> str:
    """A path as seen from the project root, where it lies inside: true on other machines too."""
    absolute = path.resolve()
    return str(absolute.relative_to(PROJECT_ROOT) if absolute.is_relative_to(PROJECT_ROOT) else absolute)
