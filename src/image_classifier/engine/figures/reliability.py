"""Draw the reliability diagram: accuracy over confidence, and how many samples lie in each bin.

Painted with Pillow: matplotlib takes a quarter of a second, which each job of a sweep would pay.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from image_classifier.engine.figures.colors import BLUE, GREY, ORANGE
from image_classifier.engine.figures.text import LABEL_SIZE, TEXT_SIZE, TITLE_SIZE, paint_text, paint_upright

WIDTH, HEIGHT = 500, 560  # pixels
DOT = 3  # radius of a mean confidence in pixels
DASH = 6  # pixels


class Plot(NamedTuple):
    """Axes from 0 to 1 in both directions, in pixels of the picture."""

    left: int
    top: int
    right: int
    bottom: int

    def x(self, share: float) -> int:
        return self.left + round(share * (self.right - self.left))

    def y(self, share: float) -> int:
        return self.bottom - round(share * (self.bottom - self.top))


UPPER, LOWER = Plot(70, 40, 480, 390), Plot(70, 406, 480, 516)


def draw_reliability(count: np.ndarray, confidence: np.ndarray, accuracy: np.ndarray, title: str) -> np.ndarray:
    """Draw accuracy over confidence, and how many samples lie in each bin.

    Args:
        count: (B,) samples in each of B bins of equal width between confidence 0 and 1.
        confidence: (B,) their mean confidence.
        accuracy: (B,) share of them that was right.
        title: Title of the figure.

    Returns:
        (H, W, 3) uint8.
    """
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    pen = ImageDraw.Draw(image)
    paint_bars(pen, UPPER, np.where(count > 0, accuracy, 0), BLUE)
    paint_bars(pen, LOWER, count / max(count.sum(), 1), GREY)
    for start, end in dashes(UPPER):
        pen.line((UPPER.x(start), UPPER.y(start), UPPER.x(end), UPPER.y(end)), "black")
    for value in confidence[count > 0]:
        paint_dot(pen, UPPER.x(value), UPPER.y(value))
    for plot, name, ticks in ((UPPER, "accuracy", 5), (LOWER, "share of samples", 2)):
        paint_frame(image, pen, plot, ticks)
        paint_upright(image, name, 8, (plot.top + plot.bottom) // 2)
    for tick in range(6):
        paint_text(image, (LOWER.x(tick / 5), LOWER.bottom + 6), f"{20 * tick}%", TEXT_SIZE, "mt")
    middle = (UPPER.left + UPPER.right) // 2
    paint_text(image, (middle, HEIGHT - 8), "confidence", LABEL_SIZE, "mb")
    paint_text(image, (middle, UPPER.top // 2), title, TITLE_SIZE, "mm")
    paint_legend(image, pen)
    return np.asarray(image)


def paint_bars(pen: ImageDraw.ImageDraw, plot: Plot, shares: np.ndarray, color: str) -> None:
    for index, share in enumerate(shares):
        if share > 0:
            left, right = plot.x(index / len(shares)) + 1, plot.x((index + 1) / len(shares)) - 1
            pen.rectangle((left, plot.y(share), max(right, left), plot.bottom), color)


def dashes(plot: Plot) -> Iterator[tuple[float, float]]:
    """Starts and ends of the dashes of the diagonal, as shares of it."""
    number = (plot.right - plot.left) // DASH
    for index in range(0, number, 2):
        yield index / number, (index + 1) / number


def paint_dot(pen: ImageDraw.ImageDraw, x: int, y: int) -> None:
    pen.ellipse((x - DOT, y - DOT, x + DOT, y + DOT), ORANGE)


def paint_frame(image: Image.Image, pen: ImageDraw.ImageDraw, plot: Plot, ticks: int) -> None:
    """Paint the axes, with numbers at so many parts of the upright one."""
    pen.rectangle(plot, outline="black")
    for tick in range(ticks + 1):
        y = plot.y(tick / ticks)
        pen.line((plot.left - 3, y, plot.left, y), "black")
        paint_text(image, (plot.left - 6, y), f"{100 * tick // ticks}%", TEXT_SIZE, "rm")


def paint_legend(image: Image.Image, pen: ImageDraw.ImageDraw) -> None:
    x, y = UPPER.left + 10, UPPER.top + 14
    pen.rectangle((x - 5, y - 9, x + 160, y + 46), "white")  # bars may be behind it
    pen.rectangle((x, y - 4, x + 20, y + 4), BLUE)
    paint_dot(pen, x + 10, y + 18)
    for start in range(0, 20, 2 * DASH):
        pen.line((x + start, y + 36, x + min(start + DASH, 20), y + 36), "black")
    for line, name in enumerate(("accuracy", "mean confidence", "perfect calibration")):
        paint_text(image, (x + 28, y + 18 * line), name, TEXT_SIZE, "lm")
