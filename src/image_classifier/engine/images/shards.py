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
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from image_classifier.engine.errors import UserError
from image_classifier.engine.images import shard_index
from image_classifier.engine.images.picture_sets import Pictures, Reading, Stamp, mode_of, stamp
from image_classifier.engine.images.pictures import Facts, PictureForm, path_text, picture_suffixes
from image_classifier.engine.images.shard_index import Places
from image_classifier.engine.images.tar import BLOCK, members


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
        stamps: Of the files, from before `places` were found; None to take them now.
    """

    def __init__(
        self,
        shards: Sequence[Path],
        places: np.ndarray,
        labels: Tensor,
        form: PictureForm | None = None,
        stamps: Sequence[Stamp | None] | None = None,
    ) -> None:
        super().__init__(labels, form)
        self.shards = tuple(shards)
        self.places = places
        self.stamps = tuple(map(stamp, shards) if stamps is None else stamps)

    def __add__(self, other: "PictureShards") -> "PictureShards":  # type: ignore[override]
        moved = other.places + np.array([len(self.shards), 0, 0])
        labels = torch.cat([self.labels, other.labels])
        places, stamps = np.concatenate([self.places, moved]), self.stamps + other.stamps
        return PictureShards(self.shards + other.shards, places, labels, self.form, stamps)

    def select(self, indices: Tensor) -> "PictureShards":
        return PictureShards(self.shards, self.places[indices.numpy()], self.labels[indices], self.form, self.stamps)

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
        return f"{path_text(self.shards[shard])}/{path_text(Path(name))}"

    def by_shard(self) -> Iterator[tuple[Path, Stamp | None, np.ndarray]]:
        """Each shard with its stamp and the (M,) positions of its pictures in this set."""
        order = self.places[:, 0].argsort(kind="stable")
        ends = self.places[:, 0][order].searchsorted(np.arange(len(self.shards) + 1))
        for shard, made_of, start, end in zip(self.shards, self.stamps, ends, ends[1:], strict=False):
            if end > start:
                yield shard, made_of, order[start:end]

    def remembered(self) -> Reading | None:
        notes = np.zeros(len(self), dtype=shard_index.FACT)
        errors: dict[int, str] = {}
        for shard, made_of, positions in self.by_shard():
            known, offsets = shard_index.read_facts(shard, made_of), self.places[positions, 1]
            if not np.isin(offsets, known.facts["offset"]).all():
                return None
            found = known.facts[known.facts["offset"].searchsorted(offsets)]
            notes[positions] = found
            bad = ~found["good"]
            errors |= {
                int(at): known.errors[int(offset)] for at, offset in zip(positions[bad], offsets[bad], strict=True)
            }
        return Reading(tuple(shard_index.facts_of(notes)), notes["digest"].copy(), dict(sorted(errors.items())))

    def remember(self, reading: Reading) -> None:
        for shard, made_of, positions in self.by_shard():
            facts = [reading.facts[position] for position in positions]
            notes = np.zeros(len(positions), dtype=shard_index.FACT)
            notes["offset"], notes["digest"] = self.places[positions, 1], reading.digests[positions]
            for name in Facts._fields:
                notes[name] = [getattr(fact, name) if fact else 0 for fact in facts]
            notes["good"] = [fact is not None for fact in facts]
            errors = {int(self.places[at, 1]): reading.errors[at] for at in positions.tolist() if at in reading.errors}
            shard_index.keep_facts(shard, shard_index.Known(notes, errors), made_of)

    def version(self) -> tuple[Any, ...]:
        places = hashlib.blake2b(self.places.tobytes(), digest_size=16).digest()
        return (*((path, stamp(path)) for path in self.shards), places)


def places_of(shard: Path, label: str) -> Places:
    """Where the pictures of a shard lie, with their labels: as an earlier run found them, else by walking through it.

    Args:
        shard: As in `samples_of`.
        label: The same.
    """
    made_of = stamp(shard)
    kept = shard_index.read_places(shard, label, made_of)
    if kept is not None:
        return kept
    skipped: Counter[str] = Counter()
    samples = list(samples_of(shard, label, skipped))
    spans = np.array([(sample.offset, sample.size) for sample in samples], dtype=np.int64).reshape(-1, 2)
    found = Places(spans, [sample.label for sample in samples], skipped, made_of)
    shard_index.keep_places(shard, label, found)
    return found


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
            yield Sample(picture.offset, picture.size, str(found))

    try:
        with shard.open("rb") as file:
            for member in members(shard):
                folder, slash, name = member.name.rpartition("/")
                stem, _, rest = name.partition(".")
                if not member.is_file or not stem:
                    skipped["hidden in a shard" if member.is_file else "no file in a shard"] += not member.is_folder
                    continue
                if (new := folder + slash + stem) != key:
                    yield from sample()
                    key, picture, found = new, None, None
                if rest == suffix:
                    file.seek(member.offset)
                    found = label_of(file.read(member.size), field, shard, key)
                elif f".{rest.rpartition('.')[2].lower()}" in picture_suffixes():
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
