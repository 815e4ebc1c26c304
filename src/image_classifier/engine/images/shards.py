"""Labelled pictures in shards: tar files of many pictures each, as WebDataset lays them out, read by position.

A shard is never unpacked and never held in memory. Its headers are walked through once; what is kept of a picture is
where it lies, 24 bytes. Any picture can then be read at any time, so that order, shares of processes, exact counts and
the resume inside an epoch are those of all other data.
"""

import hashlib
import json
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from image_classifier.engine.errors import UserError
from image_classifier.engine.images.picture_sets import Pictures, mode_of, stamp
from image_classifier.engine.images.pictures import PictureForm, picture_suffixes, printable

BLOCK = 512  # bytes of a header in a tar file


class Sample(NamedTuple):
    """A picture of a shard."""

    offset: int  # of its first byte in the shard
    size: int  # in bytes
    label: str


class PictureShards(Pictures):
    """Labelled pictures in tar files.

    Args:
        shards: The files.
        places: (N, 3) int64: number of the shard, offset and size of each picture.
        labels: (N,) int64.
        form: As in Pictures.
    """

    def __init__(
        self, shards: Sequence[Path], places: np.ndarray, labels: Tensor, form: PictureForm | None = None
    ) -> None:
        super().__init__(labels, form)
        self.shards = tuple(shards)
        self.places = places

    def __add__(self, other: "PictureShards") -> "PictureShards":  # type: ignore[override]
        moved = other.places + np.array([len(self.shards), 0, 0])
        labels = torch.cat([self.labels, other.labels])
        return PictureShards(self.shards + other.shards, np.concatenate([self.places, moved]), labels, self.form)

    def select(self, indices: Tensor) -> "PictureShards":
        return PictureShards(self.shards, self.places[indices.numpy()], self.labels[indices], self.form)

    def content(self, index: int) -> bytes:
        shard, offset, size = self.places[index].tolist()
        with self.shards[shard].open("rb", buffering=0) as file:
            file.seek(offset)
            content = file.read(size)
        if content is None or len(content) < size:
            raise OSError("the shard ends within it")
        return content

    def mode(self, index: int) -> str:
        return mode_of(self.content(index))

    def describe(self, index: int) -> str:
        shard, offset, _ = self.places[index].tolist()
        try:
            with self.shards[shard].open("rb") as file:
                file.seek(offset - BLOCK)
                name = tarfile.TarInfo.frombuf(file.read(BLOCK), "utf-8", "surrogateescape").name
        except (OSError, tarfile.HeaderError):
            name = f"byte {offset}"
        return f"{printable(self.shards[shard])}/{printable(Path(name))}"

    def version(self) -> tuple[Any, ...]:
        places = hashlib.blake2b(self.places.tobytes(), digest_size=16).digest()
        return (*((path, stamp(path)) for path in self.shards), places)


def samples_of(shard: Path, label: str, skipped: Counter[str]) -> Iterator[Sample]:
    """Walk through a shard: members that share all of their name before its first dot are one sample.

    Args:
        shard: An uncompressed tar file.
        label: What follows that dot in the name of the member that holds the label, as text; `json.FIELD` for a field
            of a member that ends with json.
        skipped: Counts what is left out, by reason.

    Raises:
        UserError: It is no such file, or a picture has no label.
    """
    suffix, _, field = label.partition(".")
    key, picture, found = "", None, None

    def sample() -> Iterator[Sample]:
        if picture is not None and found is None:
            raise UserError(
                f"expected a label for each picture in {shard} but found none for {key}: no member {key}.{suffix}; "
                "name what holds the labels: data.label=cls, or data.label=json.FIELD"
            )
        if picture is not None:
            yield Sample(picture.offset_data, picture.size, str(found))

    try:
        with tarfile.open(shard, "r:") as file:
            while (member := file.next()) is not None:
                file.members = []  # type: ignore[attr-defined]  # else it keeps them all, a kilobyte each
                name = PurePosixPath(member.name)
                stem, _, rest = name.name.partition(".")
                if not member.isreg() or not stem:
                    skipped["hidden in a shard" if member.isreg() else "no file in a shard"] += not member.isdir()
                    continue
                if (new := str(name.with_name(stem))) != key:
                    yield from sample()
                    key, picture, found = new, None, None
                if rest == suffix:
                    content = file.extractfile(member)
                    found = label_of(content.read() if content else b"", field, shard, key)
                elif name.suffix.lower() in picture_suffixes():
                    if picture is not None:
                        raise UserError(
                            f"expected one picture a sample in {shard} but found several for {key}; leave one"
                        )
                    picture = member
                else:
                    skipped[f".{rest} in a shard"] += 1
            yield from sample()
    except (tarfile.TarError, OSError) as error:
        raise UserError(
            f"expected a tar file that is not compressed but found {shard}: {error}; unpack or replace it"
        ) from None


def label_of(content: bytes, field: str, shard: Path, key: str) -> str:
    """The text of a label.

    Raises:
        UserError: There is none.
    """
    try:
        text = content.decode()
        value = json.loads(text)[field] if field else text.strip()
    except (ValueError, KeyError, TypeError):
        value = ""
    if value == "" or isinstance(value, dict | list | bool) or value is None:
        raise UserError(
            f"expected a label for each picture in {shard} but found none in that of {key}; correct it, or name "
            "another: data.label=cls, data.label=json.FIELD"
        )
    return str(value)
