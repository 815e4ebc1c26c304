"""Do what docs/first-hour.md says, in an empty folder, and write what came out into the page.

    python scripts/first_hour.py           # rewrites the page and its picture
    python scripts/first_hour.py --check   # leaves the page as it is; fails when a command or its result does

The page is the script: its blocks in `console` hold commands, each after a `$ `. `<this repository>` is this clone, as
committed. The environment that the page sets up is installed anew.
"""

import argparse
import csv
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from leaves import draw_leaves

from image_classifier.engine.project import PROJECT_ROOT

PAGE = PROJECT_ROOT / "docs" / "first-hour.md"
PICTURE = PROJECT_ROOT / "docs" / "pictures" / "first_hour.png"
BLOCK = re.compile(r"(?<=^```console\n).*?(?=^```$)", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^\$ (.*)$", re.MULTILINE)
RUN = re.compile(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d-\d{6}")
OF_PIP = re.compile("WARNING: ")  # on where this machine gets its packages
FIRST_LINES, LAST_LINES = 5, 36  # of a long output, that the page shows
PER_CLASS, NEW = 120, 4  # pictures
HOME = "/home/me"  # what the page shows in the place of the folder
END = "-- end of the command"


class Shell:
    """A bash that keeps its directory and environment from command to command."""

    def __init__(self, directory: Path) -> None:
        environment = {key: value for key, value in os.environ.items() if key not in ("VIRTUAL_ENV", "PYTHONPATH")}
        environment["PATH"] = os.pathsep.join(
            path for path in os.environ["PATH"].split(os.pathsep) if not Path(path, "activate").exists()
        )
        self.process = subprocess.Popen(
            ["bash"],
            cwd=directory,
            env=environment | {"COLUMNS": "100"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, command: str) -> tuple[int, str]:
        """Exit status and output of a command."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{command} </dev/null\nprintf '\\n{END} %s\\n' $?\n")
        self.process.stdin.flush()
        lines: list[str] = []
        for line in self.process.stdout:
            if line.startswith(END):
                return int(line.rpartition(" ")[2]), "".join(lines).strip("\n")
            lines.append(line)
        return self.process.wait(), "".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="leave the page as it is")
    parser.add_argument("--page", type=Path, default=PAGE, help="another page of this kind")
    arguments = parser.parse_args()
    text = arguments.page.read_text()
    with tempfile.TemporaryDirectory() as folder:
        draw_leaves(Path(folder) / "photos", PER_CLASS)
        draw_leaves(Path(folder) / "new_photos", NEW, seed=1)
        written, run = follow(text, Path(folder))
        if run is not None:
            verify(run, Path(folder))
        if not arguments.check:
            arguments.page.write_text(written)
            if run is not None:
                draw_matrix(run)


def follow(text: str, folder: Path) -> tuple[str, Path | None]:
    """Run the commands of a page in a folder.

    Returns:
        The page with what they print now, and the directory of the run that they made, if any.

    Raises:
        SystemExit: A command failed.
    """
    shell = Shell(folder)
    run: Path | None = None
    parts: list[str] = []
    position = 0
    for block in BLOCK.finditer(text):
        lines: list[str] = []
        for written in COMMAND.findall(block[0]):
            shown = RUN.sub(run.name, written) if run else written
            print(f"$ {shown}", flush=True)
            status, output = shell.run(shown.replace("<this repository>", str(PROJECT_ROOT)))
            print(output, flush=True)
            if status != 0:
                sys.exit(f"error: `{shown}` ended with status {status}")
            lines += [f"$ {shown}", *as_shown(output, folder)]
            run = next(iter(sorted(folder.glob("*/outputs/train/*"), reverse=True)), None)
        parts += [text[position : block.start()], "".join(f"{line}\n" for line in lines)]
        position = block.end()
    return "".join([*parts, text[position:]]), run


def as_shown(output: str, folder: Path) -> Iterator[str]:
    """Lines of an output as the page shows them: without what is only of this machine, long ones cut in the middle."""
    lines = [line.rstrip() for line in output.replace(str(folder), HOME).splitlines() if not OF_PIP.match(line)]
    if len(lines) > FIRST_LINES + LAST_LINES:
        lines = [*lines[:FIRST_LINES], "...", *lines[-LAST_LINES:]]
    return (line for line in lines if line)


def verify(run: Path, folder: Path) -> None:
    """See that the matrix, the exported files and the predictions are what they should be.

    Raises:
        SystemExit: One is not.
    """
    trees = sorted(path.name for path in (folder / "photos").iterdir())
    rows = read_csv(run / "confusion_matrix" / "test.csv")
    counts = [[int(cell) for cell in row[1:]] for row in rows[1:]]
    tested, right = sum(map(sum, counts)), sum(counts[index][index] for index in range(len(counts)))
    predicted = read_csv(next(folder.glob("*/outputs/predict/*/predictions.csv")))
    exported = [run / "checkpoints" / f"best{suffix}" for suffix in (".onnx", ".pt2")]
    facts = {
        "the trees are the classes of the matrix": rows[0][1:] == [row[0] for row in rows[1:]] == trees,
        "a fifth of the pictures is tested": tested == len(trees) * PER_CLASS // 5,
        "more than half of them are classified right": right > tested / 2,
        "the network is exported": all(path.is_file() for path in exported),
        "each new picture has a prediction": len(predicted) == 1 + len(trees) * NEW,
        "the report is there": (run / "report" / "report.html").is_file(),
    }
    if wrong := [fact for fact, holds in facts.items() if not holds]:
        sys.exit(f"error: expected that {'; '.join(wrong)}; {right} of {tested} were right")
    print(f"All holds: {right} of {tested} pictures of the test were classified right.")


def read_csv(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def draw_matrix(run: Path) -> None:
    """Put a picture of the run's matrix beside the page."""
    import torch
    from PIL import Image

    from image_classifier.engine.figures.confusion_matrix import draw_confusion_matrix  # slow to import

    header, *rows = read_csv(run / "confusion_matrix" / "test.csv")
    counts = torch.tensor([[int(cell) for cell in row[1:]] for row in rows])
    share = float(counts.diagonal().sum() / counts.sum())
    pixels = draw_confusion_matrix(counts, header[1:], title=f"accuracy {share:.2%}")
    Image.fromarray(pixels).save(PICTURE, optimize=True)


if __name__ == "__main__":
    main()
