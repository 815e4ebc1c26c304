"""Labelled pictures before they are decoded: files, or the items of a Dataset."""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset

from image_classifier.engine.errors import UserError
from image_classifier.engine.images.pictures import Facts, PictureForm, decode, path_text, reason

Stamp = tuple[int, int, int, int]

FORMER_BYTES = 4096  # of each file, for `former_keys`


@dataclass(frozen=True)
class Reading:
    """What N pictures were found to be.

    Attributes:
        facts: Size and mode of each; None for one that cannot be decoded.
        digests: (N,) uint64, hashes of their contents; 0 for one that cannot be read.
        errors: Why a picture cannot be decoded, by index.
        images: (G, C, H, W) uint8 of the G that can be decoded, where they were decoded to be kept.
    """

    facts: tuple[Facts | None, ...]
    digests: np.ndarray
    errors: Mapping[int, str]
    images: Tensor | None = None

    @property
    def good(self) -> Tensor:
        """(N,) bool: which can be decoded."""
        return torch.tensor([fact is not None for fact in self.facts], dtype=torch.bool)


class Pictures(Dataset):
    """N labelled pictures; as a Dataset, decoded one by one.

    Subclasses say what a picture's content is, which pictures are chosen, and how two sets are joined.

    Args:
        labels: (N,) int64.
        form: What to decode them to; may be set later.
    """

    parallel = True  # may be decoded by several threads
    names: tuple[str, ...] | None = None  # what each is called wherever it lies; only such are known again elsewhere

    def __init__(self, labels: Tensor, form: PictureForm | None = None) -> None:
        self.labels = labels
        self.form = form

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        assert self.form is not None
        try:
            return decode(self.content(index), self.form)[0], self.labels[index]
        except Exception as error:  # Pillow's plug-ins raise whatever damaged content leads them to
            raise UserError(
                f"expected a picture but found {self.describe(index)}: {reason(error)}; repair or remove the file"
            ) from None

    def __add__(self, other: Self) -> Self:  # type: ignore[override]
        raise NotImplementedError

    def select(self, indices: Tensor) -> Self:
        """The pictures at some (M,) positions."""
        raise NotImplementedError

    def content(self, index: int) -> bytes | Image.Image:
        """The bytes of a picture file, or an image."""
        raise NotImplementedError

    def mode(self, index: int) -> str:
        """The mode of a picture, one of Pillow's."""
        raise NotImplementedError

    def describe(self, index: int) -> str:
        """How a picture is called in messages."""
        raise NotImplementedError

    def version(self) -> tuple[Any, ...] | None:
        """What differs when one of the pictures is another; None where nothing tells."""
        return None

    def remembered(self) -> Reading | None:
        """What an earlier run found these very pictures to be; None where that is not known of all."""
        return None

    def remember(self, reading: Reading) -> None:
        """Keep what they were found to be for later runs, where there is a place for it."""


class PictureFiles(Pictures):
    """Labelled picture files.

    Args:
        paths: N files.
        names: What each is called wherever the folder lies: its class, and its path in the class folder.
        labels: (N,) int64.
        form: As in Pictures.
    """

    def __init__(
        self, paths: Sequence[Path], names: Sequence[str], labels: Tensor, form: PictureForm | None = None
    ) -> None:
        super().__init__(labels, form)
        self.paths = tuple(paths)
        self.names: tuple[str, ...] = tuple(names)

    def __add__(self, other: "PictureFiles") -> "PictureFiles":  # type: ignore[override]
        labels = torch.cat([self.labels, other.labels])
        return PictureFiles(self.paths + other.paths, self.names + other.names, labels, self.form)

    def select(self, indices: Tensor) -> "PictureFiles":
        chosen = indices.tolist()
        paths, names = [self.paths[index] for index in chosen], [self.names[index] for index in chosen]
        return PictureFiles(paths, names, self.labels[indices], self.form)

    def content(self, index: int) -> bytes:
        return self.paths[index].read_bytes()

    def mode(self, index: int) -> str:
        with Image.open(self.paths[index]) as file:  # reads the header only
            return file.mode

    def describe(self, index: int) -> str:
        return path_text(self.paths[index])

    def version(self) -> tuple[Any, ...]:
        return (*((path, stamp(path)) for path in self.paths), self.names)


def stamp(path: Path) -> Stamp | None:
    """What changes with a file; None where it cannot be read."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def named_keys(names: Sequence[str], digests: np.ndarray) -> Tensor:
    """Numbers by which pictures of the same name and content are known again.

    Args:
        names: What N pictures are called wherever they lie.
        digests: (N,) uint64, hashes of their contents.

    Returns:
        (N,) int64.
    """
    told = (os.fsencode(name) + digest.tobytes() for name, digest in zip(names, digests, strict=True))
    return torch.tensor([short_hash(content) for content in told], dtype=torch.int64)


def former_keys(pictures: PictureFiles) -> Tensor:
    """Numbers by which checkpoints knew pictures again before they held hashes of whole contents.

    Returns:
        (N,) int64, hashes of name, size and `FORMER_BYTES` from the middle of the file; 0 for one that cannot be read.
    """

    def key(path: Path, name: str) -> int:
        try:
            with path.open("rb", buffering=0) as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - FORMER_BYTES) // 2)
                return short_hash(b"%d\0%b\0%b" % (size, os.fsencode(name), file.read(FORMER_BYTES)))
        except OSError:
            return 0

    return torch.tensor([key(*file) for file in zip(pictures.paths, pictures.names, strict=True)], dtype=torch.int64)


def short_hash(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little", signed=True)


class PictureItems(Pictures):
    """Labelled pictures of whatever can be indexed: a torch Dataset, a table of Hugging Face.

    Args:
        items: Returns an item for a position.
        picture: What of an item is the picture: the bytes of a file, an image of Pillow's, or an array or tensor as
            `as_image` takes it.
        labels: (N,) int64.
        positions: (N,) int64: where in `items` they are; None for one after the other.
        parallel: Whether several threads may ask for items.
        form: As in Pictures.
    """

    def __init__(
        self,
        items: Any,
        picture: Callable[[Any], Any],
        labels: Tensor,
        positions: Tensor | None = None,
        *,
        parallel: bool = False,
        form: PictureForm | None = None,
    ) -> None:
        super().__init__(labels, form)
        self.items = items
        self.picture = picture
        self.positions = torch.arange(len(labels)) if positions is None else positions
        self.parallel = parallel

    def __add__(self, other: "PictureItems") -> "PictureItems":  # type: ignore[override]
        together: Any = ConcatDataset([self.items, other.items])
        positions = torch.cat([self.positions, other.positions + len(self.items)])
        labels = torch.cat([self.labels, other.labels])
        return PictureItems(together, self.picture, labels, positions, parallel=self.parallel, form=self.form)

    def select(self, indices: Tensor) -> "PictureItems":
        chosen = self.labels[indices], self.positions[indices]
        return PictureItems(self.items, self.picture, *chosen, parallel=self.parallel, form=self.form)

    def content(self, index: int) -> bytes | Image.Image:
        content = self.picture(self.items[int(self.positions[index])])
        return content if isinstance(content, bytes | Image.Image) else as_image(content)

    def mode(self, index: int) -> str:
        return mode_of(self.content(index))

    def describe(self, index: int) -> str:
        return f"item {int(self.positions[index])}"


def mode_of(content: bytes | Image.Image) -> str:
    """The mode of a picture, one of Pillow's, by its header."""
    if isinstance(content, Image.Image):
        return content.mode
    with Image.open(BytesIO(content)) as file:
        return file.mode


def as_image(pixels: Any) -> Image.Image:
    """An image of Pillow's from an array.

    Args:
        pixels: (H, W), (H, W, C) array or (C, H, W) tensor, with 1 to 4 channels (grey, grey with alpha, RGB, RGB with
            alpha); integers from 0 to 255, or floats from 0 to 1.

    Raises:
        ValueError: It is nothing like that.
    """
    if isinstance(pixels, Tensor):
        pixels = pixels.float() if pixels.is_floating_point() else pixels  # NumPy has no bfloat16
        pixels = pixels.movedim(0, -1).numpy() if pixels.ndim == 3 else pixels.numpy()
    array = np.asarray(pixels)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] > 4):
        raise ValueError(f"expected a picture of 1 to 4 channels but found an array of shape {array.shape}")
    if array.dtype == bool:
        array = array.astype(np.uint8) * 255
    highest = 1 if array.dtype.kind == "f" else 255
    if array.dtype != np.uint8:
        if array.size and not (array.min() >= 0 and array.max() <= highest):
            raise ValueError(
                f"expected values from 0 to {highest} but found {array.min()} to {array.max()}; leave normalisation "
                "out of the data set"
            )
        array = np.rint(array * (255 / highest)).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(array))
