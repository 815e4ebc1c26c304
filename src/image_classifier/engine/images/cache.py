"""Decoded pictures on the disk, mapped into memory: `data.cache`.

A set of pictures in a form is one file of pixels, named after the contents of all of them, beside a file that lists
these contents. Another picture is therefore another file; what files of the same form hold already is copied, so that
only new pictures are decoded.
"""

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, NamedTuple
from zipfile import BadZipFile

import numpy as np
import PIL
import torch
from filelock import FileLock

from image_classifier.engine.disk import size
from image_classifier.engine.errors import UserError
from image_classifier.engine.images.picture_sets import Pictures, Reading
from image_classifier.engine.images.pictures import Facts, PictureForm, decode, reason
from image_classifier.engine.images.reading import content_digest, progress, usable_cores

LAYOUT = 1  # of the files; another number makes the former ones unknown
CHUNK = 512  # pictures that are decoded before they are written
UNUSED_DAYS = 30  # after which files are said to be unused
UNFINISHED = re.compile(r"[0-9a-f]{12}-[0-9a-f]{24}\.(pixels|npz)\.part")  # nothing else is ever removed
NOTHING = b"\0" * 16  # in the place of the digest of a picture that cannot be read
NOTES = np.dtype([("digest", "V16"), ("width", "i4"), ("height", "i4"), ("mode", "S8"), ("good", "?")])


class Notes(NamedTuple):
    """What is known of the pictures of a set beside their pixels."""

    pictures: np.ndarray  # (N,) of NOTES
    errors: dict[int, str]  # why a picture cannot be decoded, by index


class Row(NamedTuple):
    """A picture on its way to the file."""

    pixels: bytes | memoryview
    facts: Facts | None
    error: str = ""
    is_new: bool = False  # decoded now


class Cached(NamedTuple):
    """A set of decoded pictures on the disk."""

    reading: Reading
    decoded: int  # how many of them were decoded for it now


def read_cached(pictures: Pictures, form: PictureForm, directory: Path) -> Cached:
    """`read_pictures` by way of a directory: what was decoded before is not decoded again.

    Processes that ask for the same pictures at the same time wait for the first one. A kill leaves the files whole.

    Args:
        pictures: N pictures; each is read, and known again by its content alone.
        form: What to decode them to.
        directory: Where decoded pictures are kept; it is made.

    Returns:
        The reading, whose images lie in a file that is mapped into memory: processes share it, and what is not needed
        at the moment need not be in memory.

    Raises:
        UserError: The directory cannot be written, or has too little room.
    """
    digests, unreadable = all_digests(pictures)
    store = Store(directory, form, digests)
    decoded = 0
    try:
        notes = store.notes_of(store.name)
        if notes is None:
            directory.mkdir(parents=True, exist_ok=True)
            with FileLock(directory / ".lock"):
                notes = store.notes_of(store.name)  # of another process, for which this one has waited
                if notes is None:
                    notes, decoded = store.fill(pictures)
        store.mark_used()
        return Cached(store.reading(notes, unreadable), decoded)
    except OSError as error:
        raise UserError(
            f"expected a directory for decoded pictures that can be written but found {directory}: "
            f"{error.strerror or error}; make room, choose another, data.cache=DIR, or none: data.cache=null"
        ) from error


def describe_kept(directory: Path) -> str:
    """How much a directory of decoded pictures holds, in words, and how much of it no run has asked for lately."""
    total = unused = 0
    for path in directory.glob("*.pixels"):
        with contextlib.suppress(FileNotFoundError):  # removed meanwhile
            found = path.stat()
            total += found.st_size
            unused += found.st_size if found.st_mtime < time.time() - UNUSED_DAYS * 86400 else 0
    return size(total) + (f", of which {size(unused)} not used for {UNUSED_DAYS} days" if unused else "")


def all_digests(pictures: Pictures) -> tuple[np.ndarray, dict[int, str]]:
    """Hashes of the contents of N pictures, (N,) of 16 bytes, and why some cannot be read, by index."""
    digests = np.full(len(pictures), NOTHING, dtype="V16")
    errors: dict[int, str] = {}

    def read(index: int) -> None:
        try:
            digests[index] = content_digest(pictures.content(index))
        except Exception as error:  # Pillow's plug-ins raise whatever a damaged file leads them to
            errors[index] = reason(error)

    with ThreadPoolExecutor(usable_cores() if pictures.parallel else 1) as pool:
        for _ in progress(pool.map(read, range(len(pictures))), "Reading pictures", len(pictures)):
            pass
    return digests, errors


class Store:
    """The files of one set of pictures in one form.

    Args:
        directory: Where they lie.
        form: What the pictures are decoded to.
        digests: (N,) of 16 bytes, hashes of their contents.
    """

    def __init__(self, directory: Path, form: PictureForm, digests: np.ndarray) -> None:
        self.directory = directory
        self.form = form
        self.digests = digests
        decoder = (LAYOUT, PIL.__version__, tuple(form))
        self.form_key = hashlib.blake2b(repr(decoder).encode(), digest_size=6).hexdigest()
        self.name = f"{self.form_key}-{hashlib.blake2b(digests.tobytes(), digest_size=12).hexdigest()}"

    def notes_of(self, name: str) -> Notes | None:
        """The notes of a set whose files are complete; else None."""
        try:
            with np.load(self.directory / f"{name}.npz", allow_pickle=False) as file:
                pictures, texts = file["pictures"], file["errors"]
            length = (self.directory / f"{name}.pixels").stat().st_size
        except (OSError, ValueError, EOFError, KeyError, BadZipFile):
            return None
        if pictures.dtype != NOTES or length != int(pictures["good"].sum()) * self.form.nbytes:
            return None
        return Notes(pictures, dict(zip(np.flatnonzero(~pictures["good"]).tolist(), texts.tolist(), strict=True)))

    def fill(self, pictures: Pictures) -> tuple[Notes, int]:
        """Write the files, one process at a time; returns their notes, and how many pictures were decoded."""
        for path in self.directory.glob("*.part"):
            if UNFINISHED.fullmatch(path.name):  # left by a process that was killed
                path.unlink(missing_ok=True)
        notes = Notes(np.zeros(len(pictures), dtype=NOTES), {})
        notes.pictures["digest"] = self.digests
        decoded = 0

        def write_pixels(file: IO[bytes]) -> None:
            nonlocal decoded
            rows = self.rows(pictures, self.known())
            for index, row in enumerate(progress(rows, "Decoding pictures", len(pictures))):
                decoded += row.is_new
                if row.facts is None:
                    notes.errors[index] = row.error
                else:
                    notes.pictures[index] = (self.digests[index], *row.facts, True)
                    file.write(row.pixels)

        self.write("pixels", write_pixels)
        texts = np.array(list(notes.errors.values()), dtype=str)
        self.write("npz", lambda file: np.savez(file, pictures=notes.pictures, errors=texts))
        return notes, decoded

    def write(self, suffix: str, write: Callable[[IO[bytes]], None]) -> None:
        """Write a file of the set as a whole or not at all."""
        part = self.directory / f"{self.name}.{suffix}.part"
        try:
            with part.open("wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            part.replace(self.directory / f"{self.name}.{suffix}")
        finally:
            part.unlink(missing_ok=True)

    def mark_used(self) -> None:
        """Have the time of the files say when they were last used, so that `find -mtime` finds those that are not."""
        for suffix in ("pixels", "npz"):
            with contextlib.suppress(OSError):  # a directory that somebody else fills
                os.utime(self.directory / f"{self.name}.{suffix}")

    def known(self) -> dict[bytes, Row]:
        """The pictures that other sets of the same form hold, by digest; their pixels stay on the disk."""
        wanted = set(map(bytes, self.digests))
        found: dict[bytes, Row] = {}
        for path in sorted(self.directory.glob(f"{self.form_key}-*.pixels")):
            notes = self.notes_of(path.stem)
            if notes is None:
                continue
            good = notes.pictures[notes.pictures["good"]]
            for note, pixels in zip(good, mapped(path, (len(good), self.form.nbytes)), strict=True):
                if (digest := bytes(note["digest"])) in wanted:
                    found[digest] = Row(pixels.data, facts_of(note))
        return found

    def rows(self, pictures: Pictures, known: dict[bytes, Row]) -> Iterator[Row]:
        """The pictures in their order, each copied or decoded."""

        def row(index: int) -> Row:
            digest = bytes(self.digests[index])
            return known[digest] if digest in known else self.decoded(pictures, index, digest)

        with ThreadPoolExecutor(usable_cores() if pictures.parallel else 1) as pool:
            for start in range(0, len(pictures), CHUNK):
                yield from pool.map(row, range(start, min(start + CHUNK, len(pictures))))

    def decoded(self, pictures: Pictures, index: int, digest: bytes) -> Row:
        if digest == NOTHING:
            return Row(b"", None, "cannot be read")  # each reading tells its own reason
        try:
            content = pictures.content(index)
            changed = content_digest(content) != digest
        except Exception:  # as in `all_digests`
            changed = True
        if changed:  # nothing may be kept that is of another content
            raise UserError(
                f"expected pictures that stay as they are while they are read but found {pictures.describe(index)} "
                "changed; start again"
            )
        try:
            image, facts = decode(content, self.form)
        except MemoryError:  # says nothing about the picture
            raise
        except Exception as error:  # as in `all_digests`
            return Row(b"", None, reason(error), True)
        return Row(image.numpy().tobytes(), facts, "", True)

    def reading(self, notes: Notes, unreadable: dict[int, str]) -> Reading:
        """What was found, with the pixels mapped into memory."""
        shape = (int(notes.pictures["good"].sum()), self.form.channels, self.form.height, self.form.width)
        return Reading(
            facts=tuple(facts_of(note) if note["good"] else None for note in notes.pictures),
            digests=np.frombuffer(self.digests.tobytes(), dtype="<u8")[::2].copy(),  # of the 16 bytes the first 8
            errors=dict(sorted((notes.errors | unreadable).items())),
            images=torch.from_numpy(mapped(self.directory / f"{self.name}.pixels", shape)),
        )


def facts_of(note: np.void) -> Facts:
    return Facts(int(note["width"]), int(note["height"]), note["mode"].decode())


def mapped(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """A file of bytes as an array that is read where it is looked at; what is written to it stays in this process."""
    return np.memmap(path, dtype=np.uint8, mode="c", shape=shape) if shape[0] else np.zeros(shape, dtype=np.uint8)
