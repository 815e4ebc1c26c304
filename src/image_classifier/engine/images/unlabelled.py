"""Pictures to be classified: finding them, and decoding them batch by batch, ahead of what classifies them."""

import glob
import os
import sys
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from torch import Tensor

from image_classifier.engine.errors import UserError
from image_classifier.engine.images.pictures import (
    PictureForm,
    class_name,
    describe_skipped,
    find_pictures,
    read_picture,
)
from image_classifier.engine.terminal import say

BATCHES_AHEAD = 2  # decoded while one is classified


def input_pictures(pattern: str) -> list[Path]:
    """The picture files that a file name, a directory or a pattern with `*`, `**` and `?` names.

    Raises:
        UserError: It names none.
    """
    path = Path(pattern)
    if path.is_dir():
        skipped: Counter[str] = Counter()
        paths = find_pictures(path, skipped)
        if told := describe_skipped(skipped):
            say(f"{len(paths)} pictures in {path}; {told}")
    elif path.is_file():
        paths = [path]
    else:
        matches = glob.glob(pattern, recursive=True)  # noqa: PTH207  # pathlib takes no absolute patterns
        paths = sorted(found for found in map(Path, matches) if found.is_file())
    if not paths:
        raise UserError(f"expected pictures but found none at {pattern}; give a picture, a folder or a pattern: input=")
    return paths


def true_classes(paths: Sequence[Path], directory: Path, class_names: Sequence[str]) -> list[int | None] | None:
    """The classes that the folders of pictures tell.

    Args:
        paths: N pictures.
        directory: Where the class folders would lie.
        class_names: Those that a folder may name.

    Returns:
        N positions in `class_names`, None for a picture outside of class folders; None when all are.
    """
    if not directory.is_dir():
        return None
    labels = {name: label for label, name in enumerate(class_names)}
    found: list[int | None] = []
    for path in paths:
        inside = path.relative_to(directory).parts[:-1]
        found.append(labels.get(class_name(inside[0])) if inside and is_text(inside[0]) else None)
    return None if all(label is None for label in found) else found


def is_text(name: str) -> bool:
    """Whether the name of a folder can be that of a class: its bytes may be anything."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


class PictureBatches:
    """Batches of pictures, decoded in parallel threads (Pillow decodes outside Python's lock), with a progress bar.

    Args:
        paths: Picture files; those that cannot be decoded are told and left out.
        form: What to decode them to.
        batch_size: Pictures a batch.
        threads: Decode that many at a time; None for as many as there are cores.
    """

    def __init__(self, paths: Sequence[Path], form: PictureForm, batch_size: int, threads: int | None = None) -> None:
        self.paths = paths
        self.form = form
        self.batch_size = batch_size
        self.threads = threads or os.cpu_count() or 1
        self.decoded: list[int] = []  # positions in `paths` of the pictures that were served, in order
        self.unreadable: list[Path] = []

    def __iter__(self) -> Iterator[Tensor]:
        """(B, C, H, W) uint8; of the last batch, fewer."""
        pool = ThreadPoolExecutor(self.threads)
        try:
            with progress() as bar:
                task = bar.add_task("Pictures", total=len(self.paths))
                ahead: deque[list[tuple[int, Future[Tensor]]]] = deque()
                for start in range(0, len(self.paths), self.batch_size):
                    positions = range(start, min(start + self.batch_size, len(self.paths)))
                    ahead.append(
                        [(index, pool.submit(read_picture, self.paths[index], self.form)) for index in positions]
                    )
                    if len(ahead) > BATCHES_AHEAD:
                        yield from self.finished(ahead.popleft(), bar, task)
                while ahead:
                    yield from self.finished(ahead.popleft(), bar, task)
        finally:
            pool.shutdown(cancel_futures=True)

    def finished(self, batch: list[tuple[int, "Future[Tensor]"]], bar: Progress, task: TaskID) -> Iterator[Tensor]:
        images: list[Tensor] = []
        for index, future in batch:
            try:
                images.append(future.result())
                self.decoded.append(index)
            except UserError as error:
                say(f"skipped: {error}", sys.stderr)
                self.unreadable.append(self.paths[index])
            bar.advance(task)
        if images:
            yield torch.stack(images)


def progress() -> Progress:
    """A bar in a terminal, nothing elsewhere; it goes when all is done."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, disable=not sys.stdout.isatty(), transient=True)
