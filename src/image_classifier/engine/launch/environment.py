"""Keys and addresses of services, from a file that git ignores."""

import os
from pathlib import Path

from dotenv import dotenv_values


def read_environment(project: Path) -> None:
    """Set the variables that `.env` in the project names, but those that are set already or that it leaves empty."""
    for name, value in dotenv_values(project / ".env", interpolate=False).items():
        if value:
            os.environ.setdefault(name, value)
