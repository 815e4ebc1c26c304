"""Draw a confusion matrix of any size. Rows are true classes, columns predicted ones.

Painted with Pillow, in pixels computed beforehand: a figure of matplotlib with a layout and one text per cell takes
ten times as long for ten classes, and longer than an epoch of a small network for a hundred.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw
from torch import Tensor

from image_classifier.engine.confusion.matrix import Normalization, most_confused_classes, normalize
from image_classifier.engine.figures.labels import BASE_FONT, tick_labels
from image_classifier.engine.figures.text import (
    LABEL_SIZE,
    TEXT_SIZE,
    TITLE_SIZE,
    paint_text,
    paint_turned,
    paint_upright,
    text_width,
)

CELL_TEXT_LIMIT = 25  # more classes than this: cells carry no text
TICK_LABEL_LIMIT = 50  # more classes than this: no tick labels, and the most confused classes beside the whole
MOST_CONFUSED = 15  # classes in that second panel
CELL_LIMIT = 500  # more classes than this: a painted cell shows the largest of several

COLORS = (mpl.colormaps["Blues"](np.arange(256))[:, :3] * 255).round().astype(np.uint8)  # one hue, light to dark
DARK = 0.6  # of the way to the darkest colour, from where on white is easier to read than black
ON_LIGHT, ON_DARK, ON_EMPTY = (0x20,) * 3, (0xFF,) * 3, (0x70,) * 3  # texts of cells
GAP = 10  # pixels between parts
TOP = TITLE_SIZE + 2 * GAP  # pixels above the matrices
BAR_WIDTH, BAR_SPACE = 16, 70  # pixels of the colour bar, and of its numbers and its name
BAR_HEIGHT = 200  # pixels, at least
BAR_NAMES = {"pred": "share of the predicted class", "all": "share of all samples"}


class Panel(NamedTuple):
    """One matrix of the picture."""

    shares: np.ndarray  # (N, N) float64, what the colours show
    texts: list[str]  # N * N texts of the cells, row by row; empty for none
    labels: list[tuple[str, str]]  # N labels with their fonts; empty for none
    cell: int  # side of a cell in pixels
    title: str
    axis_note: str = ""

    @property
    def side(self) -> int:
        return self.cell * len(self.shares)

    @property
    def label_width(self) -> int:
        return max((text_width(text, font, LABEL_SIZE) for text, font in self.labels), default=0)

    @property
    def angle(self) -> int:
        """Degrees by which column labels are turned so that they do not meet."""
        if self.label_width <= self.cell - 2 * GAP:
            return 0
        return 45 if self.cell > 2 * LABEL_SIZE else 90

    @property
    def left(self) -> int:
        """Pixels left of the matrix: axis name, row labels, and the overhang of the first turned column label."""
        overhang = int(0.71 * (self.label_width + LABEL_SIZE)) - self.cell // 2 if self.angle == 45 else 0
        return GAP + max(LABEL_SIZE + 2 * GAP + self.label_width, overhang)

    @property
    def below(self) -> int:
        slope = math.radians(self.angle)
        labels = int(math.sin(slope) * self.label_width + math.cos(slope) * LABEL_SIZE)
        return labels + LABEL_SIZE + 3 * GAP

    @property
    def width(self) -> int:
        return self.left + max(self.side, text_width(self.title, BASE_FONT, TITLE_SIZE)) + GAP


def draw_confusion_matrix(
    counts: Tensor, class_names: Sequence[str], mode: Normalization = "none", title: str = ""
) -> np.ndarray:
    """Draw counts and row percentages; colours show the share of the true class, so rare classes show too.

    Args:
        counts: (K, K) int64, rows true, columns predicted.
        class_names: K names.
        mode: Normalisation of the printed values; "none" prints the count and the row percentage.
        title: Title of the picture.

    Returns:
        (H, W, 3) uint8: the whole matrix and, with more than 50 classes, a second matrix of the most confused ones
        beside it, with percentages of the whole rows.
    """
    panels = [whole_panel(counts, class_names, mode, title)]
    chosen = most_confused_classes(counts, MOST_CONFUSED) if len(class_names) > TICK_LABEL_LIMIT else []
    if chosen:
        panels.append(confused_panel(counts, class_names, mode, chosen))
    largest = (mode == "all" and float(panels[0].shares.max())) or 1.0
    # Cells without a number need the contrast where the errors are: near zero.
    gamma = 0.5 if len(class_names) > CELL_TEXT_LIMIT else 1.0
    width = sum(panel.width for panel in panels) + BAR_WIDTH + BAR_SPACE
    height = TOP + max(max(panel.side, BAR_HEIGHT) + panel.below for panel in panels)
    image = Image.new("RGB", (width, height), "white")
    x = 0
    for panel in panels:
        paint_panel(image, panel, x, (panel.shares / largest) ** gamma)
        x += panel.width
    paint_bar(
        image, x, max(panels[-1].side, BAR_HEIGHT), largest, gamma, BAR_NAMES.get(mode, "share of the true class")
    )
    return np.array(image)


def whole_panel(counts: Tensor, class_names: Sequence[str], mode: Normalization, title: str) -> Panel:
    number = len(class_names)
    shares = normalize(counts, "true" if mode == "none" else mode)
    if number <= TICK_LABEL_LIMIT:
        texts = cell_texts(counts, shares, mode) if number <= CELL_TEXT_LIMIT else []
        cell = max(62, min(120, 360 // number)) if texts else 16
        return Panel(shares.numpy(), texts, tick_labels(class_names), cell, title)
    note = f", 0 to {number - 1}"
    pooled = math.ceil(number / CELL_LIMIT)
    if pooled > 1:
        shares = F.max_pool2d(shares[None], pooled, ceil_mode=True)[0]
        note += f" (each spot: the largest of {pooled} x {pooled} cells)"
    return Panel(shares.numpy(), [], [], math.ceil(720 / len(shares)), title, note)


def confused_panel(counts: Tensor, class_names: Sequence[str], mode: Normalization, chosen: list[int]) -> Panel:
    """The rows and columns of some classes, with their shares of the whole matrix."""
    index = torch.tensor(chosen)
    shares = normalize(counts, "true" if mode == "none" else mode)[index][:, index]
    texts = cell_texts(counts[index][:, index], shares, mode)
    title = f"the {len(chosen)} most confused classes"
    return Panel(shares.numpy(), texts, tick_labels(class_names, chosen), 50, title)


def cell_texts(counts: Tensor, shares: Tensor, mode: Normalization) -> list[str]:
    """What stands in the cells, row by row: the count over its share, or the share alone."""
    pairs = zip(counts.flatten().tolist(), shares.flatten().tolist(), strict=True)
    if mode == "none":
        return [f"{short_count(count)}\n{share:.1%}" if count else "0" for count, share in pairs]
    return [("<.001" if share < 0.0005 else f"{share:.3f}") if count else "0" for count, share in pairs]


def short_count(count: int) -> str:
    return str(count) if count < 1_000_000 else f"{count:.2e}".replace("e+0", "e")


def paint_panel(image: Image.Image, panel: Panel, x: int, shades: np.ndarray) -> None:
    """Paint a matrix with everything around it; `x` is where the panel begins, `shades` (N, N) are 0 to 1."""
    pen = ImageDraw.Draw(image)
    left, bottom = x + panel.left, TOP + panel.side
    middle = left + panel.side // 2
    colors = COLORS[(shades * 255).round().astype(np.uint8)]  # (N, N, 3)
    image.paste(Image.fromarray(colors).resize((panel.side, panel.side), Image.Resampling.NEAREST), (left, TOP))
    pen.rectangle((left - 1, TOP - 1, left + panel.side, bottom), outline="black")
    title_width = text_width(panel.title, BASE_FONT, TITLE_SIZE)
    title_at = max(middle, x + GAP + title_width // 2)
    paint_text(image, (title_at, TOP - GAP), panel.title, TITLE_SIZE, "ms")
    paint_cells(image, panel, left, shades)
    for position, (label, path) in enumerate(panel.labels):
        center = int((position + 0.5) * panel.cell)
        pen.line((left - 4, TOP + center, left - 1, TOP + center), "black")
        pen.line((left + center, bottom, left + center, bottom + 3), "black")
        paint_text(image, (left - 7, TOP + center), label, LABEL_SIZE, "rm", font=path)
        if panel.angle:
            paint_turned(image, label, path, panel.angle, (left + center, bottom + 7))
        else:
            paint_text(image, (left + center, bottom + 6), label, LABEL_SIZE, "ma", font=path)
    name_at = bottom + panel.below - 2 * GAP
    paint_text(image, (middle, name_at), f"predicted class{panel.axis_note}", LABEL_SIZE, "ma")
    paint_upright(image, "true class", x + GAP, TOP + panel.side // 2)


def paint_cells(image: Image.Image, panel: Panel, left: int, shades: np.ndarray) -> None:
    for position, text in enumerate(panel.texts):
        row, column = divmod(position, len(shades))
        color = ON_EMPTY if text == "0" else ON_DARK if shades[row, column] > DARK else ON_LIGHT
        x, y = left + int((column + 0.5) * panel.cell), TOP + int((row + 0.5) * panel.cell)
        lines = text.split("\n")
        for line, text_of_line in enumerate(lines):  # faster than Pillow's own text of several lines
            offset = (line - (len(lines) - 1) / 2) * (TEXT_SIZE + 3)
            paint_text(image, (x, int(y + offset)), text_of_line, TEXT_SIZE, "mm", color=color)


def paint_bar(image: Image.Image, x: int, height: int, largest: float, gamma: float, name: str) -> None:
    """Paint which colour means which share."""
    pen = ImageDraw.Draw(image)
    steps = COLORS[np.linspace(255, 0, height).round().astype(np.uint8)][:, None]  # (height, 1, 3)
    image.paste(Image.fromarray(steps.repeat(BAR_WIDTH, 1)), (x, TOP))
    pen.rectangle((x - 1, TOP - 1, x + BAR_WIDTH, TOP + height), outline="black")
    for tenth in range(0, 11, 2):
        y = TOP + height - round(height * (tenth / 10) ** gamma)
        pen.line((x + BAR_WIDTH, y, x + BAR_WIDTH + 3, y), "black")
        number = f"{largest * tenth / 10:.2g}"
        paint_text(image, (x + BAR_WIDTH + 7, y), number, TEXT_SIZE, "lm")
    paint_upright(image, name, x + BAR_WIDTH + BAR_SPACE - LABEL_SIZE - GAP, TOP + height // 2)


def to_array(figure: Figure) -> np.ndarray:
    """Render a figure of matplotlib, which has its own Agg canvas, to (H, W, 3) uint8."""
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
