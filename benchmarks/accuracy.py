"""Test accuracy and wall time of what is run from the command line, start-up included.

python benchmarks/accuracy.py                    # of `make bench`: the default, one seed
python benchmarks/accuracy.py default 5          # a recipe, a number of seeds
python benchmarks/accuracy.py best_cpu 3
python benchmarks/accuracy.py best_gpu 1         # on a GPU

The unit of time is the epoch of a bare PyTorch loop: the MLP at batch 128, on the same machine in the same hour.
KERAS_PYTHON=<a Python with tensorflow> compares keras_tutorial with Keras itself (benchmarks/keras_loop.py).
"""

from common import RESULTS, Row, describe, ratio, seconds, write_results

# isort: split
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from epoch import bare_loop

ROOT = Path(__file__).resolve().parents[1]
ACCURACY_TARGETS = {"default": 92.5, "keras_tutorial": 86.7, "best_cpu": 94.0, "best_gpu": 96.7}  # percent, mean
MINUTES = {"best_cpu": 30, "best_gpu": None}  # a run may take
EPOCHS_OF_KERAS = 5
SETTINGS = {"default": [], "keras_tutorial": ["trainer.precision=32-true"]}  # Keras computes in float32


def train(recipe: str, seed: int) -> tuple[float, float, int]:
    """Test accuracy in percent, wall seconds from the start of the process to its end, and parameters."""
    with tempfile.TemporaryDirectory() as directory:
        overrides = [f"seed={seed}", f"hydra.run.dir={directory}/run"]
        if recipe != "default":
            overrides.append(f"experiment={recipe}")
        overrides += SETTINGS.get(recipe, [])
        command = [sys.executable, "train.py", *overrides]
        wall = seconds(lambda: subprocess.run(command, cwd=ROOT, check=True, capture_output=True))
        metrics = json.loads((Path(directory) / "run" / "metrics.json").read_text())
    print(f"{recipe}, seed {seed}: {metrics['test/acc']:.4f} in {wall:.1f} s", file=sys.stderr, flush=True)
    return 100 * metrics["test/acc"], wall, metrics["parameters"]


def measure(recipe: str, seeds: int) -> list[Row]:
    runs = [train(recipe, seed) for seed in range(1, seeds + 1)]
    accuracies, walls, parameters = zip(*runs, strict=True)
    spread = f", standard deviation {statistics.stdev(accuracies):.2f}" if seeds > 1 else ""
    note = f"{', '.join(f'{accuracy:.2f}' for accuracy in accuracies)}{spread}; {parameters[0]:,} parameters"
    question = (
        f"{recipe}: test accuracy, mean of seeds 1 to {seeds}" if seeds > 1 else f"{recipe}: test accuracy, seed 1"
    )
    rows = [Row(question, statistics.mean(accuracies), "%", ACCURACY_TARGETS[recipe], False, seeds, note)]
    wall = statistics.median(walls)
    if recipe == "default":
        bare = bare_loop("model=mlp", "data.batch_size=128", "data.augmentation=null")
        unit = statistics.median(seconds(bare.epoch) for _ in range(5))
        note = f"{bare.precision}: {describe(wall)} against {describe(unit)}"
        question = "default: wall time, start-up included, in epochs of a bare loop over the MLP at batch 128"
        rows.append(Row(question, wall / unit, "epochs", 40, samples=seeds, note=note))
    elif recipe == "keras_tutorial":
        rows += tutorial_rows(walls)
    else:
        question = f"{recipe}: wall time, start-up included"
        note = ", ".join(f"{duration / 60:.1f}" for duration in walls)
        rows.append(Row(question, wall / 60, "min", MINUTES[recipe], samples=seeds, note=note))
    return rows


def tutorial_rows(walls: tuple[float, ...]) -> list[Row]:
    """The Keras tutorial's experiment against the bare loop, and against Keras where there is one."""
    loop = bare_loop("experiment=keras_tutorial", *SETTINGS["keras_tutorial"])
    bare = [seconds(lambda: [loop.epoch() for _ in range(EPOCHS_OF_KERAS)]) for _ in walls]
    value, note = ratio(list(zip(walls, bare, strict=True)))
    question = "keras_tutorial: wall time, start-up included, against a bare loop of as many epochs at batch 32"
    rows = [Row(question, value, "x", None, samples=len(walls), note=f"{loop.precision}: {note}")]
    question = "keras_tutorial: wall time, start-up included, against Keras"
    if keras := os.environ.get("KERAS_PYTHON"):
        command = [keras, str(Path(__file__).parent / "keras_loop.py"), str(ROOT / "data")]
        theirs = seconds(lambda: subprocess.run(command, check=True, capture_output=True))
        note = f"{loop.precision}: {describe(statistics.median(walls))} against {describe(theirs)}"
        rows.append(Row(question, statistics.median(walls) / theirs, "x", 0.333, samples=1, note=note))
    else:
        rows.append(Row(question, None, "x", 0.333, samples=0, note="KERAS_PYTHON is not set"))
    return rows


def main(recipe: str = "default", seeds: int = 1, name: str = "accuracy") -> list[Row]:
    rows = measure(recipe, seeds)
    if name == "accuracy" and not (RESULTS / "accuracy_best_gpu.json").exists():
        rows.append(Row("best_gpu: test accuracy", None, "%", ACCURACY_TARGETS["best_gpu"], False, 0, "needs a GPU"))
    write_results(name, rows)
    return rows


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(sys.argv[1], int(sys.argv[2]), f"accuracy_{sys.argv[1]}")
    else:
        main()
