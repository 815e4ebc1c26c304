"""Two trainings on the same processors: how much longer each takes than alone, and what it costs to be alone.

python benchmarks/side_by_side.py

How OpenMP's threads wait is read when torch is loaded, so every measurement is of processes of their own.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import Row, describe, ratio, write_results

from image_classifier.engine.launch.threads import SPINS, WAITING

ROOT = Path(__file__).resolve().parents[1]
PAIRS = 3
OURS = {"GOMP_SPINCOUNT": str(SPINS)}
LIBRARY: dict[str, str] = {"GOMP_SPINCOUNT": "300000"}  # what the library chooses where nobody has said anything
TRAININGS = {
    "mlp at batch 32": ("model=mlp", "data.batch_size=32", "trainer.limit_train_batches=600"),
    "cnn at batch 128": ("model=cnn", "data.batch_size=128", "trainer.limit_train_batches=60"),
}
SHORT = (
    *("trainer.max_epochs=2", "trainer.limit_val_batches=5", "test=false", "callbacks=none", "logger=none"),
    *("confusion_matrix=none", "+trainer.enable_progress_bar=false", "+trainer.enable_model_summary=false"),
    "+trainer.enable_checkpointing=false",
)
# Seconds of many steps; written on standard output, of which nothing else makes use.
STEPS = """
import sys, time
import torch
import torch.nn.functional as F
from image_classifier.models.cnn import CNN
from image_classifier.models.mlp import MLP
net = {"mlp": MLP, "cnn": CNN}[sys.argv[1]]((1, 28, 28), 10)
images, labels = torch.randn(int(sys.argv[2]), 1, 28, 28), torch.randint(10, (int(sys.argv[2]),))
optimizer = torch.optim.AdamW(net.parameters(), fused=True)
times = []
for _ in range(int(sys.argv[3])):
    start = time.perf_counter()
    loss = F.cross_entropy(net(images), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    times.append(time.perf_counter() - start)
print(sorted(times)[len(times) // 2])
"""
IDLE = (("mlp", 32, 1000), ("mlp", 128, 500), ("cnn", 128, 60))  # network, batch, steps


def environment(waiting: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in WAITING} | waiting


def fit_seconds(waiting: dict[str, str], overrides: tuple[str, ...], number: int) -> list[float]:
    """Train so many times at once; the seconds that each fit took."""
    with tempfile.TemporaryDirectory() as directory:
        run_dirs = [f"{directory}/{index}" for index in range(number)]
        processes = [
            subprocess.Popen(
                [sys.executable, "train.py", *overrides, *SHORT, f"hydra.run.dir={run_dir}"],
                cwd=ROOT, env=environment(waiting), stdout=subprocess.DEVNULL,
            )
            for run_dir in run_dirs
        ]  # fmt: skip
        if [process for process in processes if process.wait() != 0]:  # wait for all of them
            raise RuntimeError("a training failed")
        return [json.loads((Path(run_dir) / "metrics.json").read_text())["fit_seconds"] for run_dir in run_dirs]


def side_by_side(what: str, waiting: dict[str, str], how: str, target: float | None, pairs: int) -> Row:
    measured = []
    for _ in range(pairs):
        (alone,) = fit_seconds(waiting, TRAININGS[what], 1)
        measured.append((statistics.mean(fit_seconds(waiting, TRAININGS[what], 2)), alone))
    value, note = ratio(measured)
    question = f"two trainings side by side, {what}, {how}: each against alone"
    return Row(question, value, "x", target, samples=pairs, note=note)


def step_seconds(waiting: dict[str, str], model: str, batch_size: int, steps: int) -> float:
    command = [sys.executable, "-c", STEPS, model, str(batch_size), str(steps)]
    done = subprocess.run(command, cwd=ROOT, env=environment(waiting), check=True, capture_output=True, text=True)
    return float(done.stdout)


def alone(model: str, batch_size: int, steps: int, pairs: int) -> Row:
    """The fastest of several processes counts: others on the machine can only make a step longer."""
    measured = [[step_seconds(waiting, model, batch_size, steps) for waiting in (OURS, LIBRARY)] for _ in range(pairs)]
    ours, theirs = (min(column) for column in zip(*measured, strict=True))
    question = f"a step of {model} at batch {batch_size} alone: spin count {SPINS} against the library's own"
    return Row(question, ours / theirs, "x", 1.1, samples=pairs, note=f"{describe(ours)} against {describe(theirs)}")


def main(pairs: int = PAIRS) -> list[Row]:
    load = os.getloadavg()[0]
    rows = [side_by_side(what, OURS, "as the commands wait", 2.2, pairs) for what in TRAININGS]
    rows += [side_by_side(what, LIBRARY, "as the library waits", None, 1) for what in TRAININGS]
    rows += [alone(*case, pairs) for case in IDLE]
    rows[0].note += f"; load of the machine before: {load:.1f} at {time.strftime('%H:%M')}"
    write_results("side_by_side", rows)
    return rows


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else PAIRS)
