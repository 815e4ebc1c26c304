"""The in-memory loader against torchvision's Dataset with torch's DataLoader, and its growth with the data.

python benchmarks/loader.py
"""

from common import Row, alternate, seconds, write_results

# isort: split
import statistics
from collections.abc import Iterable

import torch
from torch.utils.data import DataLoader, Subset
from torchvision import datasets
from torchvision.transforms import v2

from image_classifier.data.augment import Augmentation
from image_classifier.data.fashion_mnist import read_images
from image_classifier.data.synthetic import generate_images
from image_classifier.engine.images.batches import EpochBatches, ImageSet, InMemoryLoader
from image_classifier.engine.images.normalization import normalize
from image_classifier.engine.images.sources import ensure_files
from image_classifier.engine.project import PROJECT_ROOT

BATCH_SIZE = 128
PAIRS = 5
BASELINE_IMAGES = 6_000  # a tenth of the images: the whole epoch takes the baseline up to half a minute
MEAN, STD = (0.2860,), (0.3530,)
AUGMENTATION = Augmentation(flip=0.5, shift=2, erase=0.25)
GROWTH_SIZES = (10_000, 100_000, 1_000_000)


def consume(batches: Iterable) -> None:
    for _images, _labels in batches:
        pass


def our_batches(data: ImageSet, augmentation: Augmentation | None) -> Iterable:
    """What a training step receives: uint8 batches by index, augmented and normalised on the device."""
    generator = torch.Generator().manual_seed(1)
    loader = InMemoryLoader(data, EpochBatches(torch.arange(len(data.labels)), BATCH_SIZE, shuffle=True))
    for images, labels in loader:
        if augmentation is not None:
            images = augmentation(images, generator)
        yield normalize(images, MEAN, STD), labels


def torchvision_batches(augment: bool, workers: int) -> DataLoader:
    """What every template does: one Python call a sample."""
    steps = [v2.ToImage()]
    if augment:
        steps += [v2.RandomHorizontalFlip(), v2.RandomCrop(28, padding=2)]
    steps += [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    if augment:
        steps.append(v2.RandomErasing(0.25))
    data = datasets.FashionMNIST(PROJECT_ROOT / "data", transform=v2.Compose(steps))
    return DataLoader(Subset(data, range(BASELINE_IMAGES)), BATCH_SIZE, shuffle=True, num_workers=workers)


def serve(data: ImageSet, times: int) -> None:
    for _ in range(times):
        consume(our_batches(data, None))


def compare_loaders(pairs: int) -> list[Row]:
    ensure_files(PROJECT_ROOT / "data" / "FashionMNIST" / "raw", "FashionMNIST")
    images, labels = read_images(PROJECT_ROOT / "data", "FashionMNIST", train=True)
    data = ImageSet(images[:BASELINE_IMAGES], labels[:BASELINE_IMAGES])
    rows = []
    for augment, target in ((False, 20), (True, 10)):
        for workers in (0, 2):
            theirs = torchvision_batches(augment, workers)
            augmentation = AUGMENTATION if augment else None
            value, note = alternate(
                lambda theirs=theirs: consume(theirs),
                lambda augmentation=augmentation: consume(our_batches(data, augmentation)),
                pairs,
            )
            question = f"loader {'with' if augment else 'without'} augmentation: images a second against DataLoader"
            rows.append(
                Row(f"{question}, {workers} workers", value, "x", target, at_most=False, samples=pairs, note=note)
            )
    return rows


def growth(pairs: int) -> list[Row]:
    """Images a second of the loader at growing sizes; the target is a spread of at most 10 %."""
    sets = {size: generate_images(10, round(size / 0.8), (1, 28, 28), 1.0, 0)[0] for size in GROWTH_SIZES}
    served = max(GROWTH_SIZES)  # images in each measurement, whatever the size
    times: dict[int, list[float]] = {size: [] for size in sets}
    for data in sets.values():
        consume(our_batches(data, None))
    for _ in range(pairs):  # in turn, so that whatever else the machine does hits all sizes
        for size, data in sets.items():
            times[size].append(seconds(lambda: serve(data, served // size)))  # noqa: B023 (called at once)
    speeds = {size: served / statistics.median(measured) for size, measured in times.items()}
    bytes_per_image = (data.images.nbytes + data.labels.nbytes) / len(data.labels)
    note = ", ".join(f"{size:,}: {speed:,.0f} images/s" for size, speed in speeds.items())
    spread = max(speeds.values()) / min(speeds.values())
    question = "loader from 10 thousand to 1 million images: fastest / slowest"
    return [
        Row(question, spread, "x", 1.1, samples=pairs, note=note),
        Row("memory an image of 28 x 28, label and index included", bytes_per_image + 8, "bytes", None, note="linear"),
    ]


def main(pairs: int = PAIRS) -> list[Row]:
    rows = compare_loaders(pairs) + growth(pairs)
    write_results("loader", rows)
    return rows


if __name__ == "__main__":
    main()
