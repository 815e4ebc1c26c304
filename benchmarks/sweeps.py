"""Sweeps: jobs side by side against one after the other, and pruning against none.

python benchmarks/sweeps.py [pairs]

Every sweep is a process of its own, so its start and its imports count, and those of its workers too.
"""

import csv
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from common import Row, alternate, ratio, write_results

ROOT = Path(__file__).resolve().parents[1]
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")  # as if nobody had set them
QUIET = ("callbacks.progress_bar=null", "callbacks.model_summary=null", "callbacks.learning_rate_monitor=null")
GRID = (
    *("model=cnn", "model.optimizer.lr=0.003,0.01", "model.loss.label_smoothing=0.0,0.1"),
    *("trainer.max_epochs=1", "trainer.limit_train_batches=0.5"),
)
STUDY = (
    "sweep=optuna",
    "hydra.sweeper.n_trials=12",
    "model=mlp",
    "model.optimizer.lr=tag(log, interval(0.00003, 0.1))",
    "data.batch_size=128",
    "trainer.max_epochs=8",
    "trainer.limit_train_batches=0.1",
    "test=false",
)


def sweep(directory: str, *overrides: str) -> float:
    """Run a sweep in a process of its own, with all processors to choose from.

    Returns:
        CPU seconds that it took, which say the same on a machine that others use too.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {name: value for name, value in os.environ.items() if name not in THREADS}
    arguments = [*QUIET, "logger=none", "confusion_matrix=none", "callbacks.sample_images=null"]
    command = [sys.executable, str(ROOT / "train.py"), "-m", *arguments, f"hydra.sweep.dir={directory}", *overrides]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def fresh() -> str:
    return tempfile.mkdtemp(prefix="sweep-")


def side_by_side(pairs: int) -> Row:
    joblib = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    measured, note = alternate(lambda: sweep(fresh(), *joblib, *GRID), lambda: sweep(fresh(), *GRID), pairs)
    question = "4 jobs (CNN, half an epoch): joblib, 2 at a time, against one after the other"
    return Row(question, measured, "x", 1.0, samples=pairs, note=note)


def pruning(pairs: int) -> list[Row]:
    walls, processors, lost, pruned = [], [], [], []
    for _ in range(pairs):
        measured = [timed_study("pruning=median"), timed_study("pruning=none")]
        tables = [table(study.directory) for study in measured]
        best = [float(rows[0]["val/acc"]) for rows in tables]
        walls.append((measured[0].wall, measured[1].wall))
        processors.append(measured[0].processor / measured[1].processor)
        lost.append(best[1] - best[0])
        pruned.append(sum(row["state"] == "pruned" for row in tables[0]))
    wall, note = ratio(walls)
    question = "Optuna, 12 trials of up to 8 epochs (MLP): median pruning against none"
    values = f"best val/acc {best[0]:.4f} against {best[1]:.4f}"
    return [
        Row(f"{question}, wall", wall, "x", 1.0, samples=pairs, note=f"{note}; {pruned} trials pruned"),
        Row(f"{question}, CPU time", statistics.median(processors), "x", 1.0, samples=pairs),
        Row(f"{question}, best value lost", max(lost), "of accuracy", 0.002, samples=pairs, note=values),
    ]


class Study(NamedTuple):
    directory: str
    wall: float  # seconds
    processor: float  # seconds


def timed_study(*overrides: str) -> Study:
    directory = fresh()
    start = time.perf_counter()
    processor = sweep(directory, *STUDY, *overrides)
    return Study(directory, time.perf_counter() - start, processor)


def table(directory: str) -> list[dict[str, str]]:
    with (Path(directory) / "sweep_summary.csv").open() as file:
        return list(csv.DictReader(file))


def main(pairs: int = 1) -> list[Row]:
    rows = [side_by_side(pairs), *pruning(pairs)]
    write_results("sweeps", rows)
    return rows


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
