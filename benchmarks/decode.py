"""Pictures a second from JPEG files: ours against torchvision's ImageFolder with torch's DataLoader, at equal workers.

Both resize bicubically. What is left to win without keeping pictures is little where they are not much larger than the
network takes them (JPEGs are decoded at a fraction of their size only where that is still twice as large).

python benchmarks/decode.py          # 1,000 pictures
python benchmarks/decode.py 50000    # as many as are asked for; made once a call, in a temporary directory
"""

from common import Row, alternate, describe, seconds, write_results

# isort: split
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import datasets
from torchvision.transforms import v2

from image_classifier.data.pictures import FileLoader
from image_classifier.engine.disk import size
from image_classifier.engine.images.batches import EpochBatches, ImageSet, InMemoryLoader
from image_classifier.engine.images.cache import read_cached
from image_classifier.engine.images.picture_sets import PictureFiles, Reading
from image_classifier.engine.images.pictures import PictureForm
from image_classifier.engine.images.reading import read_pictures

COUNT = 1_000
CLASSES = 10
WIDTH, HEIGHT = 500, 375
SIDES = (64, 224)  # pixels that the network takes
WORKERS = 2
BATCH_SIZE = 128
PAIRS = 3


def draw_pictures(root: Path, count: int) -> None:
    """JPEGs as large as those of cameras that were scaled for the web: shapes of all sizes, and some noise."""
    random = np.random.default_rng(0)
    for index in range(count):
        coarse = Image.fromarray(random.integers(256, size=(12, 16, 3), dtype=np.uint8)).resize((WIDTH, HEIGHT))
        fine = Image.fromarray(random.integers(256, size=(94, 125, 3), dtype=np.uint8)).resize((WIDTH, HEIGHT))
        path = root / f"class_{index % CLASSES}" / f"{index:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.blend(coarse, fine, 0.2).save(path, quality=90)


def consume(batches: Iterable) -> None:
    for _images, _labels in batches:
        pass


def files_of(data: datasets.ImageFolder, form: PictureForm) -> PictureFiles:
    """The same files in the same order, as ours."""
    paths = [Path(path) for path, _ in data.samples]
    return PictureFiles(paths, [path.name for path in paths], torch.tensor(data.targets), form)


def batches_of(count: int) -> EpochBatches:
    return EpochBatches(torch.arange(count), BATCH_SIZE, shuffle=True)


def epoch(pictures: PictureFiles, reading: Reading) -> None:
    """An epoch from decoded pictures, wherever they lie."""
    assert reading.images is not None
    consume(InMemoryLoader(ImageSet(reading.images, pictures.labels), batches_of(len(pictures))))


def measure(root: Path, side: int, pairs: int) -> list[Row]:
    transform = v2.Compose([v2.Resize(side, v2.InterpolationMode.BICUBIC), v2.CenterCrop(side), v2.PILToTensor()])
    data = datasets.ImageFolder(root, transform=transform)
    pictures = files_of(data, PictureForm(3, side, side, "crop"))
    form, count = pictures.form, len(data)
    assert form is not None
    theirs = DataLoader(data, BATCH_SIZE, shuffle=True, num_workers=WORKERS)
    caches = iter(tempfile.mkdtemp(dir=root.parent) for _ in range(1000))
    kept = Path(next(caches))
    cold = seconds(lambda: epoch(pictures, read_cached(pictures, form, kept).reading))
    ours = {
        "decoded batch by batch": lambda: consume(FileLoader(pictures, batches_of(count), WORKERS)),
        # Without the sharing between the jobs of a multirun, which would leave nothing to measure.
        "first epoch, decoded into memory": lambda: epoch(pictures, read_pictures.__wrapped__(pictures, form)),
        "first epoch, data.cache is empty": lambda: epoch(
            pictures, read_cached(pictures, form, Path(next(caches))).reading
        ),
        "first epoch of a later run, data.cache is full": lambda: epoch(
            pictures, read_cached(pictures, form, kept).reading
        ),
    }
    targets = (1.0, 1.0, 1.0, 10.0)
    rows = []
    for (name, work), target in zip(ours.items(), targets, strict=True):
        value, note = alternate(lambda: consume(theirs), work, pairs)
        ours_again = seconds(work)
        rows.append(
            Row(
                f"{count:,} JPEGs of {WIDTH} x {HEIGHT} to {side} x {side}, {WORKERS} workers: {name}",
                value,
                "x",
                target,
                at_most=False,
                samples=pairs,
                note=f"ImageFolder {note}; {count / ours_again:,.0f} pictures/s",
            )
        )
    memory = count * form.nbytes
    note = f"first batch after {describe(cold)} with an empty cache: all are decoded before it"
    return [
        *rows,
        Row(f"{count:,} decoded pictures of {side} x {side}: memory, or disk", memory, "bytes", None, note=note),
    ]


def main(pairs: int = PAIRS, count: int = COUNT) -> list[Row]:
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory) / "pictures"
        draw_pictures(root, count)
        files = sum(path.stat().st_size for path in root.rglob("*.jpg"))
        print(f"{count:,} JPEGs, {size(files)}", flush=True)
        rows = [row for side in SIDES for row in measure(root, side, pairs)]
    write_results("decode", rows)
    return rows


if __name__ == "__main__":
    main(count=int(sys.argv[1]) if len(sys.argv) > 1 else COUNT)
