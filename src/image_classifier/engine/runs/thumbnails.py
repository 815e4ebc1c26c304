"""Small pictures of the samples, all in one picture: which ones, and how they are laid out."""

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from image_classifier.engine.runs.files import write_atomically
from image_classifier.engine.runs.sample_table import SampleTable

SIDE = 48  # pixels; larger images are reduced
EXACT_SIDE = 32  # up to this size pictures are stored without loss
SHARE_OF_MISTAKES = 0.8  # where there are more mistakes than fit, the rest are samples that are classified correctly
A_PIECE = 256  # images that are read at once


class Atlas(NamedTuple):
    """Pictures of some samples of a table in one WebP file, row by row."""

    rows: list[int]  # positions of the samples in the table, in the order of the pictures
    width: int  # of one picture, in pixels
    height: int
    columns: int  # pictures side by side
    content: bytes  # the file

    def layout(self) -> dict[str, Any]:
        """All but the file."""
        return {name: value for name, value in self._asdict().items() if name != "content"}

    def for_page(self) -> dict[str, Any]:
        """The layout, and the file as a URL that holds it."""
        return self.layout() | {"source": f"data:image/webp;base64,{base64.b64encode(self.content).decode()}"}


def choose_samples(table: SampleTable, limit: int) -> np.ndarray:
    """Which samples get a picture: of every cell of the matrix the worst first, mistakes before the others.

    Args:
        table: The samples.
        limit: At most so many.

    Returns:
        (M,) int64, ascending positions in the table.
    """
    labelled = np.flatnonzero(table.true >= 0)
    wrong = table.true[labelled] != table.predicted[labelled]
    mistakes, correct = labelled[wrong], labelled[~wrong]
    room = max(round(limit * SHARE_OF_MISTAKES), limit - len(correct))
    chosen = worst_of_each_cell(table, mistakes, min(room, limit))
    return np.sort(np.concatenate([chosen, worst_of_each_cell(table, correct, limit - len(chosen))]))


def worst_of_each_cell(table: SampleTable, rows: np.ndarray, limit: int) -> np.ndarray:
    """Of some rows the worst of every cell, then the second worst of every cell, and so on."""
    cells = table.true[rows] * len(table.class_names) + table.predicted[rows]
    order = np.lexsort((-table.loss[rows], cells))  # cell by cell, the highest loss first
    grouped = cells[order]
    rank = np.arange(len(order)) - np.searchsorted(grouped, grouped)  # within its cell
    by_rank = np.lexsort((-table.loss[rows][order], rank))
    return rows[order[by_rank[:limit]]]


def make_atlas(rows: np.ndarray, read: Callable[[np.ndarray], np.ndarray]) -> Atlas | None:
    """Lay out the pictures of samples.

    Args:
        rows: (M,) int64, their positions in the table.
        read: Gives the images of some of the rows, (B, C, H, W) uint8.

    Returns:
        None where there are none.
    """
    if not len(rows):
        return None
    pieces = [reduced(read(rows[start : start + A_PIECE])) for start in range(0, len(rows), A_PIECE)]
    tiles = np.concatenate(pieces)  # (M, H, W, 3)
    number, height, width, _ = tiles.shape
    columns = max(1, round((number * height / width) ** 0.5))
    lines = -(-number // columns)
    padding = np.zeros((lines * columns - number, height, width, 3), np.uint8)
    grid = np.concatenate([tiles, padding]).reshape(lines, columns, height, width, 3)
    picture = Image.fromarray(grid.swapaxes(1, 2).reshape(lines * height, columns * width, 3))
    content = io.BytesIO()
    exact = max(height, width) <= EXACT_SIDE
    picture.save(content, "WEBP", lossless=exact, quality=20 if exact else 75, method=0 if exact else 4)
    return Atlas(rows.tolist(), width, height, columns, content.getvalue())


def reduced(images: np.ndarray) -> np.ndarray:
    """(B, C, H, W) uint8 as (B, h, w, 3), those above `SIDE` pixels made smaller. Grey, RGB; else the first channel."""
    if images.shape[1] != 3:
        images = np.repeat(images[:, :1], 3, axis=1)
    images = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
    height, width = images.shape[1:3]
    longer = max(height, width)
    if longer <= SIDE:
        return images
    size = (max(1, round(width * SIDE / longer)), max(1, round(height * SIDE / longer)))
    small = [np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX)) for image in images]
    return np.stack(small)


def save_atlas(run_dir: Path, stage: str, atlas: Atlas | None) -> None:
    """Keep the pictures beside the table: `<stage>_pictures.webp`, and `.json` with what each is."""
    picture, layout = atlas_paths(run_dir, stage)
    if atlas is None:
        picture.unlink(missing_ok=True)
        layout.unlink(missing_ok=True)
        return
    write_atomically(picture, atlas.content)
    write_atomically(layout, json.dumps(atlas.layout()) + "\n")


def load_atlas(run_dir: Path, stage: str) -> Atlas | None:
    """What `save_atlas` kept; None where there is nothing."""
    picture, layout = atlas_paths(run_dir, stage)
    if not (picture.is_file() and layout.is_file()):
        return None
    described: dict[str, Any] = json.loads(layout.read_text())
    return Atlas(**described, content=picture.read_bytes())


def atlas_paths(run_dir: Path, stage: str) -> tuple[Path, Path]:
    directory = run_dir / "predictions"
    return directory / f"{stage}_pictures.webp", directory / f"{stage}_pictures.json"
