"""Sweeps: jobs side by side against one after the other, and pruning against none.

python benchmarks/sweeps.py [data.root=DIR]

Every sweep is a process of its own, so its start and its imports count, and those of its workers too.
"""

import csv
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from common import Row, alternate, ratio, seconds, write_results

ROOT = Path(__file__).resolve().parents[1]
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")  # as if nobody had set them
QUIET = ("callbacks.progress_bar=null", "callbacks.model_summary=null", "callbacks.learning_rate_monitor=null")
GRID = ("model=cnn", "model.optimizer.lr=0.003,0.01", "model.label_smoothing=0.0,0.1", "trainer.max_epochs=1")
STUDY = (
    "sweep=optuna",
    "hydra.sweeper.n_trials=12",
    "model=mlp",
    "model.optimizer.lr=tag(log, interval(0.00003, 0.1))",
    "data.batch_size=128",
    "trainer.max_epochs=8",
    "trainer.limit_train_batches=0.3",
    "test=false",
)


def sweep(directory: str, *overrides: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in THREADS}
    arguments = [*QUIET, "logger=none", "confusion_matrix=none", "callbacks.sample_images=null", *sys.argv[1:]]
    command = [sys.executable, str(ROOT / "train.py"), "-m", *arguments, f"hydra.sweep.dir={directory}", *overrides]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def fresh() -> str:
    return tempfile.mkdtemp(prefix="sweep-")


def side_by_side(pairs: int) -> Row:
    joblib = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    measured, note = alternate(lambda: sweep(fresh(), *joblib, *GRID), lambda: sweep(fresh(), *GRID), pairs)
    question = "4 jobs (CNN, 1 epoch): joblib, 2 at a time, against one after the other"
    return Row(question, measured, "x", 1.0, samples=pairs, note=note)


def pruning(pairs: int) -> list[Row]:
    walls, gaps, pruned = [], [], []
    for _ in range(pairs):
        with_pruning, without = fresh(), fresh()
        walls.append(
            (
                seconds(lambda directory=with_pruning: sweep(directory, *STUDY, "pruning=median")),
                seconds(lambda directory=without: sweep(directory, *STUDY, "pruning=none")),
            )
        )
        rows, all_rows = table(with_pruning), table(without)
        gaps.append(float(all_rows[0]["val/acc"]) - float(rows[0]["val/acc"]))
        pruned.append(sum(row["state"] == "pruned" for row in rows))
    measured, note = ratio(walls)
    best = f"best val/acc {float(rows[0]['val/acc']):.4f} against {float(all_rows[0]['val/acc']):.4f}"
    question = "Optuna, 12 trials of up to 8 epochs (MLP): median pruning against none"
    return [
        Row(f"{question}, wall", measured, "x", 1.0, samples=pairs, note=f"{note}; {pruned} trials pruned"),
        Row(f"{question}, best value lost", max(gaps), "accuracy", 0.002, samples=pairs, note=best),
    ]


def table(directory: str) -> list[dict[str, str]]:
    with (Path(directory) / "sweep_summary.csv").open() as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    write_results("sweeps", [side_by_side(pairs=2), *pruning(pairs=1)])
