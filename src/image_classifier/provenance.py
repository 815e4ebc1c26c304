"""Where a run comes from: the commit and the command."""

import shlex
import subprocess
import sys
from pathlib import Path


def git_commit() -> str:
    """The commit that this project is at."""
    root = Path(__file__).resolve().parents[2]
    answer = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=False)
    return answer.stdout.strip() or "not in a git repository"


def command_line() -> str:
    """The command as it would be typed again."""
    return shlex.join(sys.argv)
