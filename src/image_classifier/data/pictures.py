"""Picture files: finding them, and decoding them to the shape that a network takes."""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from rich.progress import track
from torch import Tensor

from image_classifier.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")

Fit = Literal["crop", "stretch"]


class PictureForm(NamedTuple):
    """What a decoded picture looks like."""

    channels: int  # 1 (grey) or 3 (RGB)
    height: int
    width: int
    fit: Fit  # "crop": scale the shorter side and keep the centre; "stretch": change the proportions


def find_pictures(directory: Path) -> list[Path]:
    """All picture files below a directory, sorted; hidden files and directories are left out."""
    return sorted(
        path
        for path in directory.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(directory).parts)
    )


def read_picture(path: Path, form: PictureForm) -> Tensor:
    """Decode a picture.

    Returns:
        (C, H, W) uint8.

    Raises:
        UserError: The file is no picture, is cut off or cannot be read.
    """
    size = (form.width, form.height)
    mode = "L" if form.channels == 1 else "RGB"
    try:
        with Image.open(path) as file:
            file.draft(mode, (2 * form.width, 2 * form.height))  # large JPEGs are decoded at a smaller scale
            image = ImageOps.exif_transpose(file)
            if image.mode.startswith("I;16"):  # Pillow would cut 16 bits off at 255 rather than scale them
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            image = image.convert(mode)
            fitted = ImageOps.fit(image, size) if form.fit == "crop" else image.resize(size)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"expected a picture but found {path}: {error}; repair or remove the file") from None
    pixels = torch.from_numpy(np.array(fitted))
    return pixels.unsqueeze(0) if form.channels == 1 else pixels.permute(2, 0, 1).contiguous()


@lru_cache(maxsize=4)  # the jobs of a multirun share one copy
def read_pictures(paths: tuple[Path, ...], form: PictureForm) -> Tensor:
    """Decode many pictures in parallel threads (Pillow decodes outside Python's lock), with a progress bar.

    Returns:
        (N, C, H, W) uint8.
    """
    images = torch.empty(len(paths), form.channels, form.height, form.width, dtype=torch.uint8)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        decoded: Iterable[Tensor] = pool.map(lambda path: read_picture(path, form), paths)
        try:
            for index, image in enumerate(track(decoded, "Decoding pictures", total=len(paths))):
                images[index] = image
        except UserError:
            pool.shutdown(cancel_futures=True)  # one bad file is enough
            raise
    return images
