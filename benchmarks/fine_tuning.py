"""What starting from a trained network gains where there are few images: test accuracy against starting from scratch.

python benchmarks/fine_tuning.py     # three seeds; five minutes of two cores
python benchmarks/fine_tuning.py 5

The network is trained on six kinds of clothes of Fashion-MNIST. The other four, which are the hardest to tell apart,
are learned from a few images of each: a fifth of them is validated on, and the test images are the official ones. All
ways have the same images, steps and settings, those of `python train.py`, which were found for training from scratch.
"""

from common import Row, write_results

# isort: split
import contextlib
import io
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from image_classifier import pipeline
from image_classifier.data.fashion_mnist import read_images
from image_classifier.engine.images.sources import ensure_files
from image_classifier.engine.launch.configuration import PROJECT_ROOT, compose

TARGET = {0: "t_shirt", 2: "pullover", 4: "coat", 6: "shirt"}
SOURCE = {1: "trouser", 3: "dress", 5: "sandal", 7: "sneaker", 8: "bag", 9: "boot"}
SIZES = (10, 100)  # training images of a class
EPOCHS = 30
SEEDS = 3
SOURCE_IMAGES = 2_000  # training images of a class of the network to start from
SOURCE_TEST_IMAGES = 200
FOLDER = ("data=image_folder", "data.image_size=28", "data.channels=1", "data.val_size=0.2")
QUIET = (
    *("logger=none", "confusion_matrix=none", "trainer=cpu", "callbacks.report=null", "callbacks.sample_images=null"),
    *("callbacks.misclassified=null", "callbacks.calibration=null", "callbacks.early_stopping=null"),
)
WAYS = {
    "from scratch": (),
    "model.init_from": ("model.init_from={source}",),
    "model.init_from model.freeze=[stages]": ("model.init_from={source}", "model.freeze=[stages]"),
}


def write_pictures(root: Path, images: Tensor, labels: Tensor, names: dict[int, str], number: int | None) -> None:
    """Write the first `number` images of each of some classes, all where that is None."""
    for label, name in names.items():
        (root / name).mkdir(parents=True)
        for index, pixels in enumerate(images[labels == label][:number].numpy()):
            Image.fromarray(pixels[0]).save(root / name / f"{index}.png", compress_level=1)


def write_folders(root: Path, seeds: int) -> None:
    """Folders `source` and `target_<images>_<seed>`: each seed learns from other images."""
    ensure_files(PROJECT_ROOT / "data" / "FashionMNIST" / "raw", "FashionMNIST")
    train, test = (read_images(PROJECT_ROOT / "data", "FashionMNIST", train=part) for part in (True, False))
    write_pictures(root / "source" / "train", *train, SOURCE, SOURCE_IMAGES)
    write_pictures(root / "source" / "test", *test, SOURCE, SOURCE_TEST_IMAGES)
    write_pictures(root / "test", *test, TARGET, None)
    for seed in range(1, seeds + 1):
        order = torch.randperm(len(train.labels), generator=torch.Generator().manual_seed(seed))
        for number in SIZES:
            folder = root / f"target_{number}_{seed}"
            write_pictures(folder / "train", train.images[order], train.labels[order], TARGET, number)
            (folder / "test").symlink_to(root / "test")


def train(run: Path, *overrides: str) -> dict[str, float]:
    """Train in this process, silently; returns the final figures."""
    with contextlib.redirect_stdout(io.StringIO()):
        pipeline.train(compose("train", [*FOLDER, *QUIET, f"paths.run_dir={run}", *overrides]))
    return json.loads((run / "metrics.json").read_text())


def measure(root: Path, source: Path, number: int, seeds: Sequence[int]) -> list[Row]:
    """The three ways with so many images of a class."""
    found: dict[str, list[float]] = {}
    for index, (way, settings) in enumerate(WAYS.items()):
        for seed in seeds:
            run = root / "runs" / f"{index}_{number}_{seed}"
            own = [f"data.root={root}/target_{number}_{seed}", f"seed={seed}", f"trainer.max_epochs={EPOCHS}"]
            given = [setting.format(source=source) for setting in settings]
            metrics = train(run, *own, *given, "data.batch_size=16", "monitor.metric=val/loss")
            found.setdefault(way, []).append(100 * metrics["test/acc"])
            print(f"{way}, {number} images a class, seed {seed}: {found[way][-1]:.2f} %", file=sys.stderr, flush=True)
    return [row(f"{number} images a class, {way}", values) for way, values in found.items()]


def row(question: str, values: Sequence[float]) -> Row:
    spread = f", standard deviation {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    note = ", ".join(f"{value:.2f}" for value in values) + spread
    return Row(f"{question}: test accuracy", statistics.mean(values), "%", None, samples=len(values), note=note)


def main(seeds: int = SEEDS) -> list[Row]:
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        write_folders(root, seeds)
        trained = train(root / "runs" / "source", f"data.root={root}/source", "trainer.max_epochs=3")
        source = root / "runs" / "source" / "checkpoints" / "best.ckpt"
        rows = [row("the network to start from, on its own six classes", [100 * trained["test/acc"]])]
        for number in SIZES:
            rows += measure(root, source, number, range(1, seeds + 1))
    write_results("fine_tuning", rows)
    return rows


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else SEEDS)
