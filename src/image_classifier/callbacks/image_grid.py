"""Pictures in a grid, each under its title."""

from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from torch import Tensor

from image_classifier.confusion.labels import BASE_FONT, font_for


def draw_image_grid(
    images: Tensor, titles: Sequence[str], columns: int = 5, heading: str = "", width: float = 1.55
) -> Figure:
    """Draw images in rows.

    Args:
        images: (N, C, H, W) uint8; one channel is drawn in grey, the first three of more as RGB.
        titles: N titles; may hold line breaks.
        columns: Images a row.
        heading: Title of the whole figure.
        width: Inches a column; a letter of a title takes about 0.07.
    """
    rows = -(-len(titles) // columns)
    lines = max((title.count("\n") + 1 for title in titles), default=1)
    figure = Figure(figsize=(width * columns, (1.35 + 0.17 * lines) * rows + 0.4), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).flatten()  # an array, for it is gone through twice
    for position in axes:
        position.set_axis_off()
    for position, image, title in zip(axes, images, titles, strict=False):
        position.imshow(displayable(image), cmap="gray", vmin=0, vmax=255)
        font = FontProperties(fname=font_for(title) or BASE_FONT, size=8)
        position.set_title(title, fontproperties=font, parse_math=False)  # a class name may hold dollar signs
    if heading:
        figure.suptitle(heading, fontsize=10, parse_math=False)
    return figure


def displayable(image: Tensor) -> np.ndarray:
    """(C, H, W) uint8 as (H, W) grey or (H, W, 3) RGB."""
    pixels = image.cpu().numpy()
    return pixels[:3].transpose(1, 2, 0) if len(pixels) >= 3 else pixels[0]


def shorten(name: str, length: int = 16) -> str:
    """Cut a long class name at its end, on one line."""
    line = " ".join(name.split())
    return line if len(line) <= length else f"{line[: length - 1]}\N{HORIZONTAL ELLIPSIS}"
