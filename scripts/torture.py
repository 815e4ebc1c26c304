"""Tries everything that docs/reliability.md promises, with as many cases as it says, and writes what held.

make torture                            # the whole set, under half an hour on two processors
make torture ARGS="kills command-lines"  # some rows
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
REPORT = ROOT / "outputs" / "torture"


class Row(NamedTuple):
    """One promise."""

    promise: str
    how: str  # it is tested
    tests: tuple[str, ...]  # what pytest is given
    environment: dict[str, str] = {}  # noqa: RUF012  # how many cases
    unit: str = "tests"


TESTS = "tests/engine"
ROWS = {
    "kills": Row(
        "a run that is killed is lost in nothing",
        "SIGKILL at random moments of start, training, validation, checkpoint, test; resumed until it ends; "
        "weights, optimizer, metrics, matrices to the last bit",
        (f"{TESTS}/test_kills.py",),
        {"KILLS": "40"},
    ),
    "signals": Row(
        "SIGINT, SIGTERM, SIGUSR1 leave the checkpoint of that step, one line, status 128+n",
        "real signals at moments of training, validation, test, import, in sweeps and two processes",
        (f"{TESTS}/test_interruption.py",),
    ),
    "disks": Row(
        "a disk that fills, vanishes, is read-only costs no earlier checkpoint",
        "tmpfs of few megabytes, remounts, file size limits, at moments of a run",
        (f"{TESTS}/test_disk.py", f"{TESTS}/launch/test_output_directory.py"),
    ),
    "loggers": Row(
        "a logger neither stops nor holds up a training",
        "servers on loopback that refuse, are silent, answer 401, 500, garbage, die; helper processes killed",
        (f"{TESTS}/loggers/test_failing_loggers.py",),
    ),
    "command-lines": Row(
        "a mistyped command ends with status 2 and at most three lines",
        "a seeded generator over train, eval, predict, export, multirun",
        (f"{TESTS}/launch/test_bad_command_lines.py",),
        {"BAD_COMMAND_LINES": "500"},
        "command lines",
    ),
    "checkpoints": Row(
        "a checkpoint runs no code",
        "every public callable of seven libraries in every place of a recipe; hostile, cut, foreign files",
        (f"{TESTS}/test_checkpoint.py",),
    ),
    "names": Row(
        "names of any characters are kept apart and harmless",
        "classes, files, paths with brackets, quotes, newlines, right-to-left text, formulas, escape sequences",
        (
            *(f"{TESTS}/test_overrides.py", f"{TESTS}/launch/test_paths.py", f"{TESTS}/test_terminal.py"),
            "tests/callbacks/test_confusion_matrix.py",
        ),
    ),
    "determinism": Row(
        "one seed gives one result, whatever watches the training",
        "loggers, forms, callbacks, verbosity, workers, shortcuts, metrics; last.ckpt to the last bit",
        (f"{TESTS}/training/test_determinism.py",),
    ),
    "long-runs": Row(
        "memory, open files and threads stay flat",
        "200 epochs with all forms and loggers; 200 jobs in one process; 8 processes on one directory of data",
        ("tests/test_long_runs.py",),
        {"LONG": "1"},
    ),
}


class Result(NamedTuple):
    """What came of a row."""

    tried: int
    held: int
    left_out: int
    seconds: float
    notes: dict[str, str]


def command(name: str) -> str:
    return f'make torture ARGS="{name}"'


def run(name: str, processes: int) -> Result:
    """Run the tests of a row; their output goes to `<REPORT>/<name>.txt`."""
    row, junit = ROWS[name], REPORT / f"{name}.xml"
    junit.unlink(missing_ok=True)
    arguments = ["-m", "", "-n", str(processes), "--dist=worksteal", f"--junit-xml={junit}", *row.tests]
    start = time.monotonic()
    with (REPORT / f"{name}.txt").open("w") as output:
        subprocess.run(
            [sys.executable, "-m", "pytest", *arguments],
            cwd=ROOT,
            env={**os.environ, **row.environment},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    return read(junit, time.monotonic() - start)


def read(junit: Path, seconds: float) -> Result:
    """Count what pytest wrote; where it wrote nothing, nothing held."""
    if not junit.exists():
        return Result(1, 0, 0, seconds, {})
    tried = held = left_out = 0
    notes: Counter[str] = Counter()
    for case in ET.parse(junit).iter("testcase"):
        if case.find("skipped") is not None:
            left_out += 1
            continue
        tried += 1
        held += case.find("failure") is None and case.find("error") is None
        for note in case.iter("property"):
            name, value = note.get("name", ""), note.get("value", "")
            if name == "died_in":
                notes.update(f"killed in {phase}" for phase in value.split())
            else:
                notes[f"{name}: {value}"] += 0
    return Result(tried, held, left_out, seconds, {text: str(count or "") for text, count in notes.items()})


def table(results: dict[str, Result]) -> str:
    """The table of docs/reliability.md."""
    lines = ["| promise | how it is tested | tried | held | minutes | repeat |", "|---|---|---:|---:|---:|---|"]
    for name, result in results.items():
        left_out = f" ({result.left_out} left out)" if result.left_out else ""
        lines.append(
            f"| {ROWS[name].promise} | {ROWS[name].how} | {result.tried}{left_out} | {result.held} | "
            f"{result.seconds / 60:.1f} | `{command(name)}` |"
        )
    for name, result in results.items():
        if result.notes:
            notes = (f"{text} {count}".strip() for text, count in sorted(result.notes.items()))
            lines += ["", f"{name}: {'; '.join(notes)}."]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}; all when none is named")
    parser.add_argument("--processes", type=int, default=2, help="that run tests side by side")
    options = parser.parse_args()
    if unknown := set(options.rows) - set(ROWS):
        parser.error(f"expected rows of {', '.join(ROWS)} but found {', '.join(sorted(unknown))}")
    REPORT.mkdir(parents=True, exist_ok=True)
    results: dict[str, Result] = {}
    for name in options.rows or ROWS:
        results[name] = run(name, options.processes)
        result = results[name]
        print(f"{name}: {result.held} of {result.tried} held, {result.seconds:.0f} s", flush=True)
    minutes = sum(result.seconds for result in results.values()) / 60
    load = os.getloadavg()[2] if hasattr(os, "getloadavg") else float("nan")
    where = f"Python {platform.python_version()}, {os.cpu_count()} processors, load {load:.1f}, {minutes:.0f} minutes"
    (REPORT / "table.md").write_text(f"{table(results)}\n\n{where}\n")
    (REPORT / "results.json").write_text(json.dumps({name: result._asdict() for name, result in results.items()}))
    print(f"\n{where}\nTable: {REPORT / 'table.md'}")
    return 0 if all(result.held == result.tried for result in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
