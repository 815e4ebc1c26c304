"""JPEGs as cameras make them, more than fit in memory: the first epoch and the later ones, memory, the first batch.

python benchmarks/large_pictures.py           # 50,000 pictures to 64 x 64
python benchmarks/large_pictures.py 50000 224 # needs 8 GB of disk in a temporary directory

Each way serves all pictures in a process of its own: torchvision's ImageFolder with torch's DataLoader once, because it
decodes them anew in each epoch, ours twice; `data.cache` keeps them decoded. All resize bicubically to the same size,
with as many workers or threads. The files are links to 2,000 different ones.
"""

from common import Row, describe, write_results

# isort: split
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from many_pictures import BATCH_SIZE, SETTINGS, WORKERS, Epoch, Way, measure, served
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import datasets
from torchvision.transforms import v2

from image_classifier.data.image_folder import ImageFolder
from image_classifier.engine.disk import size

COUNT = 50_000
SIDE = 64  # pixels that the network takes
DIFFERENT = 2_000
CLASSES = 10
WIDTH, HEIGHT = 500, 375


def draw_pictures(root: Path, count: int) -> int:
    """JPEGs as large as those of cameras that were scaled for the web: shapes of all sizes, and some noise.

    Returns:
        Bytes that they fill.
    """
    random = np.random.default_rng(0)
    drawn: list[Path] = []
    for index in range(count):
        path = root / "files" / f"class_{index % CLASSES}" / f"{index:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if index < DIFFERENT:
            coarse = Image.fromarray(random.integers(256, size=(12, 16, 3), dtype=np.uint8)).resize((WIDTH, HEIGHT))
            fine = Image.fromarray(random.integers(256, size=(94, 125, 3), dtype=np.uint8)).resize((WIDTH, HEIGHT))
            Image.blend(coarse, fine, 0.2).save(path, quality=90)
            drawn.append(path)
        else:
            os.link(drawn[index % DIFFERENT], path)
    return sum(path.stat().st_size for path in drawn)


def ours(side: int, root: Path, **settings: Any) -> Iterable[Any]:
    return served(ImageFolder(root=str(root / "files"), image_size=side, **SETTINGS, **settings))


def from_files(side: int, root: Path) -> Iterable[Any]:
    return ours(side, root, in_memory=False)


def from_cache(side: int, root: Path) -> Iterable[Any]:
    return ours(side, root, cache=str(root / "cache"))


def torchvision_files(side: int, root: Path) -> Iterable[Any]:
    transform = v2.Compose([v2.Resize(side, v2.InterpolationMode.BICUBIC), v2.CenterCrop(side), v2.PILToTensor()])
    data = datasets.ImageFolder(str(root / "files"), transform=transform)
    return DataLoader(data, BATCH_SIZE, shuffle=True, num_workers=WORKERS)


WAYS: Sequence[tuple[str, Callable[[int, Path], Iterable[Any]]]] = (
    ("ImageFolder and DataLoader", torchvision_files),
    ("data.cache=DIR, empty", from_cache),
    ("data.cache=DIR, a later run", from_cache),
    ("data.in_memory=false", from_files),
)


def rows_of(pictures: str, found: dict[str, Epoch]) -> Iterator[Row]:
    theirs, first, later, files = (found[name] for name, _ in WAYS)
    versus = f"{pictures}, {WORKERS} workers: %s, against ImageFolder and DataLoader"

    def row(name: str, value: float, least: float) -> Row:
        return Row(versus % name, value, "x", least, at_most=False)

    yield row("first epoch with an empty data.cache, from the start on", per_image(theirs) / per_image(first), 1.0)
    yield row("second epoch with data.cache", again(theirs) / again(first), 5.0)
    yield row(
        "first epoch of a later run with data.cache, from the start on", per_image(theirs) / per_image(later), 5.0
    )
    yield row("second epoch with data.in_memory=false", again(theirs) / again(files), 1.0)
    for name, epoch in found.items():
        note = f"{1 / again(epoch):,.0f} once it runs; first batch after {describe(epoch.before)}; memory "
        note += f"{size(max(epoch.memory))}, of which that of mapped files is the system's"
        yield Row(
            f"{pictures}: {name}, first epoch from the start on", 1 / per_image(epoch), "images/s", None, note=note
        )


def per_image(epoch: Epoch) -> float:
    """Seconds an image took in the first epoch, start included."""
    return (epoch.before + epoch.seconds) / epoch.images


def again(epoch: Epoch) -> float:
    """Seconds an image took in the second epoch, or after the first batch where there was none."""
    return (epoch.again or epoch.seconds) / epoch.images


def main(count: int = COUNT, side: int = SIDE) -> list[Row]:
    with tempfile.TemporaryDirectory() as directory:
        different = draw_pictures(Path(directory), count)
        print(f"{size(different)} of different pictures", file=sys.stderr, flush=True)
        found = {}
        for name, batches in WAYS:
            epoch = measure(
                Way(name, partial(batches, side)), Path(directory), count, again=batches is not torchvision_files
            )
            assert epoch is not None
            found[name] = epoch
    rows = list(rows_of(f"{count:,} JPEGs of {WIDTH} x {HEIGHT} to {side} x {side}", found))
    write_results("large_pictures" if side == SIDE else f"large_pictures_{side}", rows)
    return rows


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
