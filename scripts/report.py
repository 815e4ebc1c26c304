"""Make the page of a run again, from what lies in its directory.

make report RUN=outputs/train/RUN
python scripts/report.py outputs/train/RUN
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from image_classifier.engine.errors import UserError
from image_classifier.engine.terminal import say

# What makes the page is imported after the arguments are read: it imports torch.


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write report/report.html of a run from what lies in its directory.")
    parser.add_argument("run", metavar="RUN", type=Path, help="run directory, or that of a sweep's job")
    options = parser.parse_args(arguments)
    try:
        say(f"Report: {remake(options.run)}")
    except UserError as error:
        say(f"error: {error}", sys.stderr)
        sys.exit(2)


def remake(run_dir: Path) -> Path:
    """Write the page of a run.

    Raises:
        UserError: The directory holds no run.
    """
    if not any((run_dir / name).is_file() for name in ("metrics.json", "report/course.json")):
        jobs = sorted(path.parent.name for path in run_dir.glob("*/metrics.json"))
        hint = f"name one of its jobs, such as {run_dir / jobs[0]}" if jobs else "see outputs/train/"
        raise UserError(f"expected the directory of a run but found no metrics.json in {run_dir}; {hint}")
    from image_classifier.engine.runs.page import write_report

    return write_report(run_dir)


if __name__ == "__main__":
    main()
