"""Predictions for picture files: reading the pictures, writing the table."""

import csv
import glob
import io
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from image_classifier.engine.errors import UserError
from image_classifier.engine.images.normalization import normalize
from image_classifier.engine.images.pictures import (
    PictureForm,
    describe_skipped,
    find_pictures,
    printable,
    read_picture,
)
from image_classifier.engine.runs.files import write_atomically

ROWS_SHOWN = 10


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
            print(f"{len(paths)} pictures in {path}; {told}", flush=True)
    elif path.is_file():
        paths = [path]
    else:
        matches = glob.glob(pattern, recursive=True)  # noqa: PTH207  # pathlib takes no absolute patterns
        paths = sorted(found for found in map(Path, matches) if found.is_file())
    if not paths:
        raise UserError(f"expected pictures but found none at {pattern}; give a picture, a folder or a pattern: input=")
    return paths


class PictureBatches:
    """Normalised batches of the pictures that can be read.

    Args:
        paths: Picture files.
        recipe: A checkpoint's recipe: image shape, mean, standard deviation, class names.
        batch_size: Pictures a batch.
    """

    def __init__(self, paths: Sequence[Path], recipe: dict[str, Any], batch_size: int) -> None:
        self.paths = paths
        self.recipe = recipe
        self.batch_size = batch_size
        self.form = PictureForm.from_recipe(recipe)
        self.read: list[Path] = []
        self.unreadable: list[Path] = []

    def __iter__(self) -> Iterator[tuple[Tensor]]:
        for start in range(0, len(self.paths), self.batch_size):
            images = [image for path in self.paths[start : start + self.batch_size] for image in self.try_to_read(path)]
            if images:
                yield (normalize(torch.stack(images), self.recipe["mean"], self.recipe["std"]),)

    def try_to_read(self, path: Path) -> list[Tensor]:
        try:
            image = read_picture(path, self.form)
        except UserError as error:
            print(f"skipped: {error}", file=sys.stderr)
            self.unreadable.append(path)
            return []
        self.read.append(path)
        return [image]


def report(batches: Sequence[Tensor], pictures: PictureBatches, output: Path) -> None:
    """Write the predictions and show the first ones.

    Args:
        batches: (B, K) class probabilities of the pictures that were read.
        pictures: Those pictures.
        output: CSV file: file, predicted class, confidence, probability of each class.

    Raises:
        UserError: Some pictures could not be read. The file is written all the same.
    """
    class_names = pictures.recipe["class_names"]
    probabilities = torch.cat(list(batches)) if batches else torch.empty(0, len(class_names))
    rows = [
        [printable(path), class_names[int(row.argmax())], *(f"{value:.6f}" for value in (row.max(), *row))]
        for path, row in zip(pictures.read, probabilities.cpu(), strict=True)
    ]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", "predicted", "confidence", *class_names])
    writer.writerows(rows)
    write_atomically(output, text.getvalue())
    table = Table("file", "predicted", "confidence", title=f"{len(rows)} predictions", title_justify="left")
    for row in rows[:ROWS_SHOWN]:
        table.add_row(*row[:3])
    if len(rows) > ROWS_SHOWN:
        table.add_row("...", "", "")
    console = Console(markup=False, emoji=False)
    console.print(table)
    console.print(f"All predictions: {output}", soft_wrap=True, highlight=False)
    if pictures.unreadable:
        raise UserError(
            f"expected {len(pictures.paths)} pictures but {len(pictures.unreadable)} could not be read "
            f"and have no row in {output}: {', '.join(map(str, pictures.unreadable))}"
        )
