"""When `model.compile=true` pays on a processor: what it saves an epoch, what the first epoch costs, and costs again.

python benchmarks/compile.py

Each network trains without it, with it and an empty cache, and with it again, each in a process of its own. An epoch is
cut off after some steps; what compilation saves in these is what it saves in every further one.
"""

from common import Row, describe, write_results

# isort: split
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from epoch import TO_THE_END, EpochTimer, fit

EPOCHS = 5  # the first one compiles
BATCH_SIZE, STEPS_OF_AN_EPOCH = 128, 430  # of Fashion-MNIST
SMALL_RESNET = ("model=wide_resnet", "model.net.depth=10", "model.net.width=1")
CASES = (  # steps of an epoch that are taken
    ("mlp", 215, ("model=mlp",)),
    ("cnn", 60, ("model=cnn",)),
    ("wide_resnet 10-1", 20, SMALL_RESNET),
)


class Times(NamedTuple):
    """Seconds of the epochs of a training."""

    first: float
    later: float  # median


def train(network: Sequence[str], steps: int, compile: bool, cache: str) -> Times:
    arguments = [*network, f"model.compile={json.dumps(compile)}", f"data.batch_size={BATCH_SIZE}"]
    arguments += [f"trainer.limit_train_batches={steps}", "trainer.limit_val_batches=2", "trainer.precision=32-true"]
    arguments += [f"trainer.max_epochs={EPOCHS}", "callbacks.model_summary=null", *TO_THE_END]
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "seconds.json")
        environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": cache}
        subprocess.run([sys.executable, __file__, str(path), *arguments], env=environment, check=True)
        first, *later = json.loads(path.read_text())
    return Times(first, statistics.median(later))


def rows_of(model: str, steps: int, network: Sequence[str]) -> list[Row]:
    with tempfile.TemporaryDirectory() as cache:
        plain, empty, kept = (train(network, steps, compile, cache) for compile in (False, True, True))
    print(f"{model}: {plain}, {empty}, {kept}", file=sys.stderr, flush=True)
    saved = (plain.later - kept.later) * STEPS_OF_AN_EPOCH / steps  # seconds an epoch of all steps
    rows = [
        Row(
            f"{model}: {steps} steps and a short validation, compiled / not",
            kept.later / plain.later,
            "x",
            None,
            samples=EPOCHS - 1,
            note=f"32-true: {describe(kept.later)} against {describe(plain.later)}",
        )
    ]
    for cache_is, times in (("empty", empty), ("kept", kept)):
        extra = times.first - times.later
        pays = f"pays after {extra / saved:.1f} epochs of {STEPS_OF_AN_EPOCH} steps" if saved > 0 else "never pays"
        question = f"{model}: what the first epoch takes longer, compiled, cache {cache_is}"
        rows.append(Row(question, extra, "s", None, note=pays))
    return rows


def main() -> list[Row]:
    rows = [row for case in CASES for row in rows_of(*case)]
    write_results("compile", rows)
    return rows


if __name__ == "__main__":
    if len(sys.argv) > 1:
        timer = fit(lambda *_: EpochTimer(), *sys.argv[2:])
        assert isinstance(timer, EpochTimer)
        Path(sys.argv[1]).write_text(json.dumps(timer.seconds))
    else:
        main()
