"""Where the project lies."""

import sys
from pathlib import Path


def find_project() -> Path | None:
    """The repository that this package lies in, else the directory of the running script, if it has our configs."""
    script = Path(sys.argv[0]) if sys.argv and sys.argv[0] else Path()
    for directory in (Path(__file__).resolve().parents[3], script.resolve().parent):
        if (directory / "configs" / "train.yaml").is_file():
            return directory
    return None


PROJECT = find_project()
PROJECT_ROOT = PROJECT or Path.cwd()  # where outputs/ and data/ lie
CONFIG_DIR = str((PROJECT or Path(__file__).resolve().parents[1]) / "configs")  # a wheel carries a copy in the package
