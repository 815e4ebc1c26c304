"""What the benchmarks share: rows with a target, the table, and the machine they ran on."""

import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from image_classifier.engine.launch.threads import settle_waiting

settle_waiting()  # as the commands do; read when torch is loaded, so benchmarks import this file before it

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "torchvision", "pytorch-lightning", "torchmetrics", "hydra-core", "tensorboard", "matplotlib")


@dataclass
class Row:
    """One measured question.

    Args:
        question: What was compared with what.
        measured: The figure, or None where this machine cannot measure it; the note says what it needs.
        unit: Its unit; "x" for ratios.
        target: The bound, or None for a figure that is only stated.
        at_most: Whether the target is an upper bound.
        samples: Number of measurements (or of alternating pairs) behind the median.
        note: Absolute values, spread, caveats.
    """

    question: str
    measured: float | None
    unit: str
    target: float | None
    at_most: bool = True
    samples: int = 1
    note: str = ""

    @property
    def verdict(self) -> str:
        if self.measured is None:
            return "not measured"
        if self.target is None:
            return "stated"
        return "ok" if (self.measured <= self.target) == self.at_most or self.measured == self.target else "MISSED"


def machine() -> str:
    """Processor, cores and versions, in a line."""
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        model = f"{names[0].split(':')[1].strip()}, {len(names)} cores" if names else model
    versions = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    return f"{model}; Python {platform.python_version()}, {versions}"


def write_results(name: str, rows: Sequence[Row]) -> None:
    """Print the rows as a Markdown table and save them to `benchmarks/results/<name>.md` and `.json`."""
    lines = ["| question | measured | target | verdict | n | note |", "|---|---:|---:|---|---:|---|"]
    for row in rows:
        bound = "" if row.target is None else f"{'<=' if row.at_most else '>='} {row.target:g} {row.unit}"
        value = "" if row.measured is None else f"{row.measured:.{4 if row.unit == '%' else 3}g} {row.unit}"
        lines.append(f"| {row.question} | {value} | {bound} | {row.verdict} | {row.samples} | {row.note} |")
    text = "\n".join([*lines, "", f"Measured on {time.strftime('%Y-%m-%d')}: {machine()}.", ""])
    print(text, flush=True)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(text)
    content = {"machine": machine(), "rows": [asdict(row) | {"verdict": row.verdict} for row in rows]}
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")


def seconds(work: Callable[[], object]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def alternate(ours: Callable[[], object], baseline: Callable[[], object], pairs: int) -> tuple[float, str]:
    """Median of the ratios of alternating measurements, and the absolute medians in words."""
    measured = [(seconds(ours), seconds(baseline)) for _ in range(pairs)]
    return ratio(measured)


def ratio(pairs: Sequence[tuple[float, float]]) -> tuple[float, str]:
    """Median of first / second over pairs of seconds, and the absolute medians in words."""
    first, second = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratios = sorted(a / b for a, b in pairs)
    note = f"{describe(first)} against {describe(second)}; ratios {ratios[0]:.2f} to {ratios[-1]:.2f}"
    return statistics.median(ratios), note


def describe(duration: float) -> str:
    return f"{duration:.3g} s" if duration >= 1 else f"{duration * 1e3:.3g} ms"


def hydra_overrides(*overrides: str) -> None:
    """Set the command line for a Hydra command that is called in this process."""
    sys.argv = ["train.py", *overrides]
