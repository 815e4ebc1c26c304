"""Many labelled pictures: decoding them in parallel, noting every one that cannot be decoded."""

import hashlib
import os
import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from rich.progress import track
from torch import Tensor
from torch.utils.data import Dataset

from image_classifier.engine.errors import UserError
from image_classifier.engine.images.pictures import (
    Facts,
    PictureForm,
    check,
    decode,
    is_grey,
    printable,
    read_picture,
    reason,
)

KEY_BYTES = 4096  # of each file, for `picture_keys`
SHARED_RESULTS = 4  # training and test pictures, of two data sets
MEASURED = 2000  # pictures from which mean and standard deviation are measured
NAMED = 100  # bad pictures in an error message

T = TypeVar("T")


class PictureFiles(Dataset):
    """Labelled picture files; as a Dataset, decoded one by one.

    Args:
        paths: N files.
        names: What each is called wherever the folder lies: its class, and its path in the class folder.
        labels: (N,) int64.
        form: What to decode them to; may be set later.
    """

    parallel = True  # may be decoded by several threads

    def __init__(
        self, paths: Sequence[Path], names: Sequence[str], labels: Tensor, form: PictureForm | None = None
    ) -> None:
        self.paths = tuple(paths)
        self.names = tuple(names)
        self.labels = labels
        self.form = form

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        assert self.form is not None
        return read_picture(self.paths[index], self.form), self.labels[index]

    def __add__(self, other: "PictureFiles") -> "PictureFiles":  # type: ignore[override]
        labels = torch.cat([self.labels, other.labels])
        return PictureFiles(self.paths + other.paths, self.names + other.names, labels, self.form)

    def select(self, indices: Tensor) -> "PictureFiles":
        chosen = indices.tolist()
        paths, names = [self.paths[index] for index in chosen], [self.names[index] for index in chosen]
        return PictureFiles(paths, names, self.labels[indices], self.form)

    def content(self, index: int) -> bytes:
        """The bytes of a file."""
        return self.paths[index].read_bytes()

    def mode(self, index: int) -> str:
        """The mode of a picture, which its header tells."""
        with Image.open(self.paths[index]) as file:
            return file.mode

    def describe(self, index: int) -> str:
        """How a picture is called in messages."""
        return printable(self.paths[index])

    def version(self) -> tuple[Any, ...]:
        """What differs when one of the pictures is another."""
        return tuple((path, stamp(path)) for path in self.paths)

    @property
    def keys(self) -> Tensor:
        """(N,) int64, by which the pictures are known again."""
        return picture_keys(self)


def stamp(path: Path) -> tuple[int, int, int, int] | None:
    """What changes with a file; None where it cannot be read."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def shared_while_unchanged(read: Callable[..., T]) -> Callable[..., T]:
    """Share what is read of pictures between the jobs of a multirun, until one of the pictures is another."""
    results: OrderedDict[Any, T] = OrderedDict()

    @wraps(read)
    def call(pictures: PictureFiles, *arguments: Any) -> T:
        key = (pictures.version(), pictures.names, arguments)
        if key not in results:
            results[key] = read(pictures, *arguments)
        results.move_to_end(key)
        while len(results) > SHARED_RESULTS:
            results.popitem(last=False)
        return results[key]

    return call


@shared_while_unchanged
def picture_keys(pictures: PictureFiles) -> Tensor:
    """Numbers by which pictures are known again, also in a folder that was moved.

    Returns:
        (N,) int64, hashes of name, size and `KEY_BYTES` from the middle of the file.

    Raises:
        UserError: A file cannot be read.
    """

    def key(path: Path, name: str) -> int:
        with path.open("rb", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - KEY_BYTES) // 2)
            content = b"%d\0%b\0%b" % (size, os.fsencode(name), file.read(KEY_BYTES))
        return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little", signed=True)

    try:
        keys = [key(path, name) for path, name in zip(pictures.paths, pictures.names, strict=True)]
    except OSError as error:
        raise UserError(f"expected a readable picture but found {error}; check its rights or remove it") from None
    return torch.tensor(keys, dtype=torch.int64)


@dataclass(frozen=True)
class Reading:
    """What N pictures were found to be.

    Attributes:
        facts: Size and mode of each; None for one that cannot be decoded.
        digests: (N,) uint64, hashes of their contents; 0 for one that cannot be read.
        errors: Why a picture cannot be decoded, by index.
        images: (N, C, H, W) uint8, where they were decoded to be kept; zeros for one that cannot be decoded.
    """

    facts: tuple[Facts | None, ...]
    digests: np.ndarray
    errors: Mapping[int, str]
    images: Tensor | None = None

    @property
    def good(self) -> Tensor:
        """(N,) bool: which can be decoded."""
        return torch.tensor([fact is not None for fact in self.facts], dtype=torch.bool)


@shared_while_unchanged
def read_pictures(pictures: PictureFiles, form: PictureForm) -> Reading:
    """Decode pictures to be kept in memory, by all cores (Pillow decodes outside Python's lock).

    Args:
        pictures: N pictures.
        form: What to decode them to.
    """
    images = torch.zeros(len(pictures), form.channels, form.height, form.width, dtype=torch.uint8)

    def read(index: int, content: Any) -> Facts:
        image, facts = decode(content, form)
        images[index] = image
        return facts

    return visit(pictures, read, "Decoding pictures", images)


@shared_while_unchanged
def check_pictures(pictures: PictureFiles) -> Reading:
    """Find out which pictures can be decoded, keeping no pixels."""
    return visit(pictures, lambda index, content: check(content), "Checking pictures")


def check_together(pictures: PictureFiles) -> Reading:
    """`check_pictures`, of which each training process does its share."""
    if not torch.distributed.is_initialized():
        return check_pictures(pictures)
    rank, number = torch.distributed.get_rank(), torch.distributed.get_world_size()
    shares = gathered(check_pictures(pictures.select(torch.arange(rank, len(pictures), number))))
    facts: list[Facts | None] = [None] * len(pictures)
    digests = np.zeros(len(pictures), dtype=np.uint64)
    errors: dict[int, str] = {}
    for first, share in enumerate(shares):
        facts[first::number] = share.facts
        digests[first::number] = share.digests
        errors |= {first + index * number: error for index, error in share.errors.items()}
    return Reading(tuple(facts), digests, dict(sorted(errors.items())))


def gathered(value: T) -> list[T]:
    """What all training processes have, in the order of their ranks; every one has to ask."""
    if not torch.distributed.is_initialized():
        return [value]
    values: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def visit(
    pictures: PictureFiles, read: Callable[[int, Any], Facts], title: str, images: Tensor | None = None
) -> Reading:
    """Call a function with each picture's index and content, in parallel threads, with a progress bar."""
    digests = np.zeros(len(pictures), dtype=np.uint64)

    def visit_one(index: int) -> Facts | str:
        try:
            content = pictures.content(index)
            digests[index] = digest(content.tobytes() if isinstance(content, Image.Image) else content)
            return read(index, content)
        except Exception as error:  # Pillow's plug-ins raise whatever a damaged file leads them to
            return reason(error)

    with ThreadPoolExecutor(usable_cores() if pictures.parallel else 1) as pool:
        visits = pool.map(visit_one, range(len(pictures)))
        found = list(track(visits, title, len(pictures), disable=not sys.stdout.isatty(), transient=True))
    errors = {index: fact for index, fact in enumerate(found) if isinstance(fact, str)}
    return Reading(tuple(None if isinstance(fact, str) else fact for fact in found), digests, errors, images)


def digest(content: bytes | bytearray | memoryview) -> int:
    """A hash of 64 bits of a picture's content."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def bad_pictures(names: Sequence[str], root: Any) -> UserError:
    """The error that names all pictures that cannot be decoded.

    Args:
        names: Each with its reason.
        root: Where they lie.
    """
    shown = ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
    return UserError(
        f"expected pictures in {root} but found {len(names)} that cannot be decoded: {shown}; "
        "repair or remove them, or leave them out: data.on_error=skip"
    )


@shared_while_unchanged
def all_grey(pictures: PictureFiles) -> bool:
    """Whether no picture has colours, by their modes; those that cannot be decoded do not count."""
    for index in range(len(pictures)):
        try:
            if not is_grey(pictures.mode(index)):
                return False
        except Exception:  # as in `visit`
            continue
    return True


def try_to_decode(pictures: PictureFiles, index: int, form: PictureForm) -> Tensor | None:
    try:
        return decode(pictures.content(index), form)[0]
    except Exception:  # as in `visit`
        return None


@shared_while_unchanged
def measure(pictures: PictureFiles, form: PictureForm) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the pixels of pictures, of `MEASURED` evenly spread ones where there are more.

    Args:
        pictures: The training pictures; those that cannot be decoded do not count.
        form: What they are decoded to.

    Returns:
        Per channel, 0 to 1, to four digits. A constant channel has the standard deviation 1.

    Raises:
        UserError: None can be decoded.
    """
    chosen = torch.arange(0, len(pictures), max(1, -(-len(pictures) // MEASURED)))
    count, total, squares = 0, torch.zeros(form.channels, dtype=torch.float64), torch.zeros(form.channels).double()
    with ThreadPoolExecutor(usable_cores() if pictures.parallel else 1) as pool:
        for image in pool.map(lambda index: try_to_decode(pictures, index, form), chosen.tolist()):
            if image is not None:
                values = image.double() / 255  # (C, H, W)
                count += values[0].numel()
                total += values.sum((1, 2))
                squares += values.square().sum((1, 2))
    if not count:
        raise UserError("expected training pictures that can be decoded but found none; look at data.root")
    mean = total / count
    std = (squares / count - mean.square()).clamp(min=0).sqrt()
    std[std < 1 / 255 / 4] = 1.0
    return tuple(round(value, 4) for value in mean.tolist()), tuple(round(value, 4) for value in std.tolist())
