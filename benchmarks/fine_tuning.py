"""What starting from a trained network gains where there are few images: test accuracy against starting from scratch.

python benchmarks/fine_tuning.py           # five seeds; ten minutes of two cores
python benchmarks/fine_tuning.py 8
python benchmarks/fine_tuning.py search    # which learning rate each way likes best: RATES

The network is trained on the first five kinds of clothes of Fashion-MNIST, 6,000 images each. The last five, none of
which it has seen, are learned from a few images of each: a fifth of them is validated on, and the test images are the
official ones. All ways have the same images and the same number of steps. Each has the learning rate that it likes
best, which was searched for with other seeds, on training images that no way was trained on.
"""

from common import Row, write_results

# isort: split
import contextlib
import io
import json
import statistics
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from image_classifier import pipeline
from image_classifier.data.fashion_mnist import read_images
from image_classifier.engine.images.sources import ensure_files
from image_classifier.engine.launch.configuration import PROJECT_ROOT, compose

SOURCE = {0: "t_shirt", 1: "trouser", 2: "pullover", 3: "dress", 4: "coat"}
TARGET = {5: "sandal", 6: "shirt", 7: "sneaker", 8: "bag", 9: "boot"}
SIZES = (5, 10, 20, 100)  # training images of a class
EPOCHS = 30
SEEDS = 5
SOURCE_EPOCHS = 5
HELD_OUT = 500  # training images of a class that only the search looks at
SEARCH_SEEDS = (101, 102, 103)
SEARCHED_RATES = (0.001, 0.003, 0.01, 0.03)
FOLDER = ("data=image_folder", "data.image_size=28", "data.channels=1", "data.val_size=0.2")
QUIET = (
    *("logger=none", "confusion_matrix=none", "trainer=cpu", "callbacks.report=null", "callbacks.sample_images=null"),
    *("callbacks.misclassified=null", "callbacks.calibration=null", "callbacks.early_stopping=null"),
)
START = "model.init_from={source}"
WAYS = {
    "from scratch": (),
    "model.init_from": (START,),
    "model.init_from 'model.lr_factors={stages: 0.1}'": (START, "model.lr_factors={{stages: 0.1}}"),
    "model.init_from model.freeze=[stages]": (START, "model.freeze=[stages]"),
}
# Found by `search`: for each of SIZES, the learning rate of the best mean on the images held out.
RATES: dict[str, tuple[float, ...]] = {
    "from scratch": (0.01, 0.003, 0.01, 0.01),
    "model.init_from": (0.03, 0.003, 0.01, 0.01),
    "model.init_from 'model.lr_factors={stages: 0.1}'": (0.01, 0.03, 0.01, 0.03),
    "model.init_from model.freeze=[stages]": (0.03, 0.01, 0.01, 0.03),
}


def write_pictures(root: Path, images: Tensor, labels: Tensor, names: dict[int, str], chosen: slice) -> None:
    """Write some images of each of some classes."""
    for label, name in names.items():
        (root / name).mkdir(parents=True)
        for index, pixels in enumerate(images[labels == label][chosen].numpy()):
            Image.fromarray(pixels[0]).save(root / name / f"{index}.png", compress_level=1)


def write_folders(root: Path, seeds: Iterable[int]) -> None:
    """Folders `source`, `test`, `held_out` and `<images>_<seed>`: each seed learns from other images."""
    ensure_files(PROJECT_ROOT / "data" / "FashionMNIST" / "raw", "FashionMNIST")
    train, test = (read_images(PROJECT_ROOT / "data", "FashionMNIST", train=part) for part in (True, False))
    write_pictures(root / "source" / "train", *train, SOURCE, slice(None))
    write_pictures(root / "source" / "test", *test, SOURCE, slice(None))
    write_pictures(root / "test", *test, TARGET, slice(None))
    write_pictures(root / "held_out", *train, TARGET, slice(-HELD_OUT, None))
    learned = torch.cat([(train.labels == label).nonzero()[:-HELD_OUT, 0] for label in TARGET])
    for seed in seeds:
        order = learned[torch.randperm(len(learned), generator=torch.Generator().manual_seed(seed))]
        for number in SIZES:
            folder = root / f"{number}_{seed}"
            write_pictures(folder / "train", train.images[order], train.labels[order], TARGET, slice(number))
            (folder / "test").symlink_to(root / ("held_out" if seed in SEARCH_SEEDS else "test"))


def train(run: Path, *overrides: str) -> float:
    """Train in this process, silently; returns the accuracy on the test images in per cent."""
    with contextlib.redirect_stdout(io.StringIO()):
        pipeline.train(compose("train", [*FOLDER, *QUIET, f"paths.run_dir={run}", *overrides]))
    return 100 * json.loads((run / "metrics.json").read_text())["test/acc"]


def fine_tune(root: Path, source: Path, way: str, number: int, rate: float, seed: int) -> float:
    """Learn the other classes in one of the ways; returns the accuracy on images that it has not seen."""
    run = Path(tempfile.mkdtemp(dir=root / "runs"))
    own = [f"data.root={root}/{number}_{seed}", f"seed={seed}", f"trainer.max_epochs={EPOCHS}", "data.batch_size=16"]
    given = [setting.format(source=source) for setting in WAYS[way]]
    accuracy = train(run, *own, *given, f"model.optimizer.lr={rate}", "monitor.metric=val/loss")
    print(f"{way}, {number} images a class, rate {rate}, seed {seed}: {accuracy:.2f} %", file=sys.stderr, flush=True)
    return accuracy


def search(root: Path, source: Path) -> None:
    """Print the mean accuracy on the images held out, for each number of images, way and learning rate."""
    for number in SIZES:
        for way in WAYS:
            means = {
                rate: statistics.mean(fine_tune(root, source, way, number, rate, seed) for seed in SEARCH_SEEDS)
                for rate in SEARCHED_RATES
            }
            print(number, way, {rate: round(mean, 2) for rate, mean in means.items()}, flush=True)


def measure(root: Path, source: Path, size: int, seeds: Sequence[int]) -> list[Row]:
    """All ways with so many images of a class."""
    number, rows, scratch = SIZES[size], [], [0.0]
    for way, rates in RATES.items():
        found = [fine_tune(root, source, way, number, rates[size], seed) for seed in seeds]
        scratch = scratch if WAYS[way] else found
        gains = [own - other for own, other in zip(found, scratch, strict=True)] if WAYS[way] else []
        rows.append(row(f"{number} images a class, {way} model.optimizer.lr={rates[size]}", found, gains))
    return rows


def row(question: str, values: Sequence[float], gains: Sequence[float] = ()) -> Row:
    """A row for the mean over seeds, with the gains over starting from scratch with the same images and seed."""
    note = ", ".join(f"{value:.2f}" for value in values)
    if len(values) > 1:
        note += f"; standard deviation {statistics.stdev(values):.2f}"
    if len(gains) > 1:
        better = sum(gain > 0 for gain in gains)
        note += (
            f"; against from scratch {statistics.mean(gains):+.2f}, standard deviation {statistics.stdev(gains):.2f}"
        )
        note += f", better with {better} of {len(gains)} seeds"
    return Row(f"{question}: test accuracy", statistics.mean(values), "%", None, samples=len(values), note=note)


def main(seeds: int = SEEDS, searching: bool = False) -> list[Row]:
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        write_folders(root, SEARCH_SEEDS if searching else range(1, seeds + 1))
        trained = train(root / "runs" / "source", f"data.root={root}/source", f"trainer.max_epochs={SOURCE_EPOCHS}")
        source = root / "runs" / "source" / "checkpoints" / "best.ckpt"
        if searching:
            search(root, source)
            return []
        rows = [row("the network to start from, on its own five classes", [trained])]
        for size in range(len(SIZES)):
            rows += measure(root, source, size, range(1, seeds + 1))
    write_results("fine_tuning", rows)
    return rows


if __name__ == "__main__":
    if sys.argv[1:] == ["search"]:
        main(searching=True)
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else SEEDS)
