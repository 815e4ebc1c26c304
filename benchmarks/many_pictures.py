"""More pictures than fit in memory: images a second, memory and the wait for the first batch, against other ways.

python benchmarks/many_pictures.py               # 40,000 small ones, and the start with a million; 3 GB of disk
python benchmarks/many_pictures.py 40000 200000  # and the start with 200,000

Each way serves its pictures once, in a process of its own. Those that do not serve ours are given a sample, from which
their rate is known. The packages webdataset and litdata are measured where they are installed; neither is needed.
"""

from common import Row, describe, write_results

# isort: split
import gc
import io
import multiprocessing
import os
import resource
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import datasets
from torchvision.transforms.v2 import PILToTensor

from image_classifier.data.pictures import PictureDataModule
from image_classifier.data.webdataset import WebDataset
from image_classifier.engine.disk import size

COUNT = 40_000
MANY = 1_000_000  # pictures with which a run is started
SERVED = 50_000  # of them
SAMPLE = 40_000  # pictures, for the others
CLASSES = 10
SIDE = 28  # of a picture
WORKERS = 2
BATCH_SIZE = 128
A_SHARD = 10_000  # pictures
DIFFERENT = 1_000  # pictures; the others repeat them, which no way of serving them takes notice of
PARTS = 10  # of an epoch, at whose ends memory is looked at
# Nearly all are served by ours, too.
SETTINGS: dict[str, Any] = {"batch_size": BATCH_SIZE, "num_workers": WORKERS, "val_size": 0.01, "test_size": 0.01}
to_tensor = PILToTensor()


class Way(NamedTuple):
    """A way to serve the pictures."""

    name: str
    batches: Callable[[Path], Iterable[Any]]  # of images and labels
    package: str = "torch"  # that it needs
    all: bool = True  # or a sample


class Epoch(NamedTuple):
    """What serving all pictures once took."""

    images: int
    seconds: float  # from the first batch on
    before: float  # seconds until the first batch
    cpu: float  # seconds, of the process and its workers, from the start on
    memory: list[int]  # bytes, of the process and its workers, at the end of each part
    again: float = 0.0  # seconds of a second epoch, where one was asked for


# The same pictures in each form.


def small_picture(random: np.random.Generator) -> bytes:
    """A PNG."""
    coarse = random.integers(256, size=(SIDE // 4, SIDE // 4), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(coarse).resize((SIDE, SIDE)).save(stream, "png", compress_level=1)
    return stream.getvalue()


def member(name: str, content: bytes) -> bytes:
    """A file in a tar file."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    return info.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % tarfile.BLOCKSIZE)


def write_shards(root: Path, pictures: Sequence[bytes], count: int) -> None:
    root.mkdir()
    for first in range(0, count, A_SHARD):
        with (root / f"{first // A_SHARD:05}.tar").open("wb") as file:
            for index in range(first, min(first + A_SHARD, count)):
                file.write(member(f"{index:07}.png", pictures[index % DIFFERENT]))
                file.write(member(f"{index:07}.cls", b"%d" % (index % CLASSES)))
            file.write(bytes(2 * tarfile.BLOCKSIZE))


def write_files(root: Path, pictures: Sequence[bytes], count: int) -> None:
    for label in range(CLASSES):
        (root / str(label)).mkdir(parents=True)
    for index in range(count):
        (root / str(index % CLASSES) / f"{index:07}.png").write_bytes(pictures[index % DIFFERENT])


def write_all(root: Path, count: int) -> None:
    random = np.random.default_rng(0)
    pictures = [small_picture(random) for _ in range(DIFFERENT)]
    write_shards(root / "shards", pictures, count)
    write_shards(root / "sample", pictures, min(count, SAMPLE))
    write_files(root / "files", pictures, min(count, SAMPLE))
    if find_spec("litdata"):
        write_litdata(root / "litdata", pictures, min(count, SAMPLE))


def write_litdata(root: Path, pictures: Sequence[bytes], count: int) -> None:
    """Decoded, as `data.cache` keeps them: what litdata serves fastest."""
    import litdata

    item = partial(decoded_item, pictures)
    litdata.optimize(item, list(range(count)), str(root), chunk_bytes="16MB", num_workers=WORKERS, verbose=False)


def decoded_item(pictures: Sequence[bytes], index: int) -> tuple[Any, int]:
    return to_tensor(Image.open(io.BytesIO(pictures[index % DIFFERENT]))), index % CLASSES


# Ways to serve them.


def served(data: PictureDataModule) -> Iterable[Any]:
    """What `python train.py` trains on: pictures that cannot be decoded are told before the first batch."""
    data.prepare_data()
    data.setup("fit")
    return data.train_dataloader()


def from_shards(root: Path, **settings: Any) -> Iterable[Any]:
    return served(WebDataset(root=str(root / "shards"), image_size=SIDE, channels=1, **SETTINGS, **settings))


def from_shards_decoded(root: Path) -> Iterable[Any]:
    return from_shards(root, in_memory=False)


def from_shards_in_memory(root: Path) -> Iterable[Any]:
    return from_shards(root, in_memory=True)


def from_cache(root: Path) -> Iterable[Any]:
    return from_shards(root, cache=str(root / "cache"))


def open_grey(path: str) -> Image.Image:
    return Image.open(path).convert("L")


def torchvision_files(root: Path) -> Iterable[Any]:
    data = datasets.ImageFolder(str(root / "files"), transform=to_tensor, loader=open_grey)
    return DataLoader(data, BATCH_SIZE, shuffle=True, num_workers=WORKERS)


def webdataset(root: Path) -> Iterable[Any]:
    import webdataset

    shards = [str(path) for path in sorted((root / "sample").glob("*.tar"))]
    data = webdataset.WebDataset(shards, shardshuffle=len(shards)).shuffle(1000).decode("pill")
    return DataLoader(data.to_tuple("png", "cls").map_tuple(to_tensor, int), BATCH_SIZE, num_workers=WORKERS)


def litdata_decoded(root: Path) -> Iterable[Any]:
    import litdata

    data = litdata.StreamingDataset(str(root / "litdata"), shuffle=True)
    return litdata.StreamingDataLoader(data, batch_size=BATCH_SIZE, num_workers=WORKERS)


# Ours, ours again, torchvision's, and others.
WAYS = (
    Way("data=webdataset data.in_memory=false", from_shards_decoded),
    Way("the same, a later run", from_shards_decoded),
    Way("ImageFolder and DataLoader", torchvision_files, all=False),
    Way("data=webdataset data.in_memory=true", from_shards_in_memory),
    Way("data=webdataset data.cache=DIR", from_cache),
    Way("the same, a later run", from_cache),
    Way("webdataset, shuffled within 1,000", webdataset, "webdataset", all=False),
    Way("litdata, decoded", litdata_decoded, "litdata", all=False),
)


def serve(batches: Callable[[Path], Iterable[Any]], root: Path, count: int, again: bool = False) -> Epoch:
    """An epoch, or two, in this process."""
    multiprocessing.set_start_method("fork", force=True)  # as in `python train.py`; a spawned process would spawn
    start = time.perf_counter()
    images, memory, first = 0, [], 0.0
    loader = batches(root)
    for pixels, _labels in loader:
        first = first or time.perf_counter()
        images += len(pixels)
        if images >= count:
            break
        if images > (len(memory) + 1) * count / (PARTS + 1):  # not the very end, when workers have ended already
            memory.append(memory_in_use())
    end = time.perf_counter()
    if again:
        for _batch in loader:
            pass
    second = time.perf_counter() - end if again else 0.0
    del loader
    gc.collect()  # ends workers that wait for another epoch, whose seconds are known afterwards
    return Epoch(images, end - first, first - start, cpu_seconds(), memory, second)


def memory_in_use() -> int:
    """Bytes of this process and its workers; what they share is counted once."""
    processes = [os.getpid(), *(child.pid for child in multiprocessing.active_children())]
    return sum(map(share_of_memory, processes))


def share_of_memory(process: int | None) -> int:
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def measure(way: Way, root: Path, count: int, again: bool = False) -> Epoch | None:
    """An epoch of at most so many images of a way, or two, in a process of its own; None without its package."""
    if not find_spec(way.package):
        return None
    count = count if way.all else min(count, SAMPLE)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        epoch = process.submit(serve, way.batches, root, count, again).result()
    print(f"{way.name}: {epoch}", file=sys.stderr, flush=True)
    return epoch


def rate(epoch: Epoch) -> float:
    return epoch.images / epoch.seconds


def rows_of(pictures: str, found: Sequence[tuple[Way, Epoch | None]]) -> Iterator[Row]:
    (ours, own), (_, later), (theirs, other), *_ = found
    assert own is not None and later is not None and other is not None
    versus = f"{pictures}, {WORKERS} workers: {ours.name}, against {theirs.name}"
    yield Row(f"{versus}: images a second", rate(later) / rate(other), "x", 1.0, at_most=False)
    flat = own.memory[-1] / own.memory[0]
    yield Row(f"{pictures}, {ours.name}: memory at the end of the epoch against a tenth of it", flat, "x", 1.05)
    for way, epoch in found:
        if epoch is None:
            note = f"needs the package {way.package}"
            yield Row(f"{pictures}: {way.name}", None, "images/s", None, samples=0, note=note)
            continue
        note = f"{epoch.images:,} images; first batch after {describe(epoch.before)}; memory {size(epoch.memory[0])} "
        note += f"at first, {size(epoch.memory[-1])} at the end; "
        note += f"{1e6 * epoch.cpu / epoch.images:.0f} CPU us an image in all"
        yield Row(f"{pictures}: {way.name}", rate(epoch), "images/s", None, note=note)


def started(count: int) -> Iterator[Row]:
    """What the start with many pictures in shards takes, the first time and later, and what of them is served then."""
    way = WAYS[0]
    with tempfile.TemporaryDirectory() as directory:
        random = np.random.default_rng(0)
        write_shards(Path(directory) / "shards", [small_picture(random) for _ in range(DIFFERENT)], count)
        first, later = (measure(way, Path(directory), min(count, SERVED)) for _ in range(2))
    assert first is not None and later is not None
    note = f"the first time {describe(first.before)}: headers are walked through, and each picture is checked"
    yield Row(
        f"{count:,} PNGs of {SIDE} x {SIDE}, {way.name}: first batch of a later run", later.before, "s", 30.0, note=note
    )
    note = f"the first {later.images:,}; memory {size(later.memory[0])} at first, {size(later.memory[-1])} at the end"
    yield Row(f"{count:,} PNGs of {SIDE} x {SIDE}: {way.name}", rate(later), "images/s", None, note=note)


def main(count: int = COUNT, many: int = MANY) -> list[Row]:
    with tempfile.TemporaryDirectory() as directory:
        write_all(Path(directory), count)
        found = [(way, measure(way, Path(directory), count)) for way in WAYS]
    rows = list(rows_of(f"{count:,} PNGs of {SIDE} x {SIDE}", found))
    rows += started(many)
    write_results("many_pictures", rows)
    return rows


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
