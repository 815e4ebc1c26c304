"""Pictures in a grid, each under its title. Painted with Pillow: matplotlib takes a second for 25 pictures."""

from collections.abc import Sequence

import numpy as np
from PIL import Image
from torch import Tensor

from image_classifier.engine.figures.labels import BASE_FONT, font_for
from image_classifier.engine.figures.text import TEXT_SIZE, TITLE_SIZE, paint_text

LINE = 15  # pixels from one line to the next
GAP = 12  # pixels between two pictures
SIDE = 120  # pixels of the longer side of a picture


def draw_image_grid(
    images: Tensor, titles: Sequence[str], columns: int = 5, heading: str = "", width: int = 155
) -> np.ndarray:
    """Draw images in rows.

    Args:
        images: (N, C, H, W) uint8; one channel is drawn in grey, the first three of more as RGB.
        titles: N titles; may hold line breaks.
        columns: Images a row.
        heading: Title of the whole picture.
        width: Pixels a column; a letter of a title takes about 7.

    Returns:
        (H, W, 3) uint8.
    """
    pictures = [enlarged(displayable(image)) for image in images]
    picture_height = max((picture.height for picture in pictures), default=0)
    title_height = LINE * max((title.count("\n") + 1 for title in titles), default=1)
    top = GAP + (2 * TITLE_SIZE if heading else 0)
    row_height = title_height + picture_height + 2 * GAP
    rows = -(-len(pictures) // columns)
    grid = Image.new("RGB", (width * columns, top + row_height * rows), "white")
    paint_text(grid, (grid.width // 2, GAP), heading, TITLE_SIZE, "ma")
    for position, (picture, title) in enumerate(zip(pictures, titles, strict=True)):
        row, column = divmod(position, columns)
        middle, y = column * width + width // 2, top + row * row_height
        for line, text in enumerate(title.split("\n")):
            paint_text(grid, (middle, y + line * LINE), text, TEXT_SIZE, "ma", font=font_for(text) or BASE_FONT)
        grid.paste(picture, (middle - picture.width // 2, y + title_height + GAP // 2))
    return np.array(grid)


def enlarged(pixels: np.ndarray) -> Image.Image:
    """A picture whose longer side is `SIDE` pixels, small ones with their pixels to be seen."""
    image = Image.fromarray(pixels)
    scale = SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)


def displayable(image: Tensor) -> np.ndarray:
    """(C, H, W) uint8 as (H, W) grey or (H, W, 3) RGB."""
    pixels = image.cpu().numpy()
    return np.ascontiguousarray(pixels[:3].transpose(1, 2, 0) if len(pixels) >= 3 else pixels[0])


def shorten(name: str, length: int = 16) -> str:
    """Cut a long class name at its end, on one line."""
    line = " ".join(name.split())
    return line if len(line) <= length else f"{line[: length - 1]}\N{HORIZONTAL ELLIPSIS}"
