"""Download and verify a data set: `python scripts/get_data.py [FashionMNIST|MNIST|KMNIST]`."""

import argparse
import sys
from pathlib import Path

from image_classifier.engine.errors import UserError
from image_classifier.engine.images.sources import FILES, ensure_files
from image_classifier.engine.project import PROJECT_ROOT


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", nargs="?", default="FashionMNIST", choices=["FashionMNIST", "MNIST", "KMNIST"])
    parser.add_argument("--root", type=Path, default=PROJECT_ROOT / "data", help="data directory")
    arguments = parser.parse_args()
    directory = arguments.root.expanduser() / arguments.dataset / "raw"
    try:
        ensure_files(directory, arguments.dataset)
    except UserError as error:
        sys.exit(f"error: {error}")
    print(f"{arguments.dataset} is complete: {len(FILES)} verified files in {directory}")


if __name__ == "__main__":
    main()
