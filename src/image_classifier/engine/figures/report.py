"""Draw learning curves, and the difference of two confusion matrices."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.ticker import MaxNLocator, PercentFormatter
from PIL import Image

from image_classifier.engine.figures.colors import BLUE, GREEN, ORANGE
from image_classifier.engine.figures.labels import tick_labels

CLASS_LIMIT = 50  # more classes than this: only those with the lowest F1 are shown
CELL_TEXT_LIMIT = 25  # more classes than this: cells carry no text


def new_figure(width: float, height: float, **margins: float) -> Figure:
    """A figure with its own Agg canvas, unknown to pyplot.

    Args:
        width: In inches.
        height: In inches.
        margins: Where the axes lie, as of `Figure.subplots_adjust`; none: matplotlib finds out, which takes as long
            as the drawing.
    """
    figure = Figure(figsize=(width, height), dpi=100, layout=None if margins else "constrained")
    if margins:
        figure.subplots_adjust(**margins)
    FigureCanvasAgg(figure)
    return figure


def to_png(pixels: np.ndarray) -> bytes:
    """(H, W, 3) uint8 as the content of a PNG file."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG", compress_level=3)  # 6: a third more time, a tenth fewer bytes
    return content.getvalue()


def draw_learning_curves(epochs: Sequence[Mapping[str, float]], learning_rates: Sequence[Sequence[float]]) -> Figure:
    """Draw loss and accuracy of training and validation, and the learning rate.

    Args:
        epochs: For each epoch "epoch" (epochs done, so 1 after the first) and any of `train/loss`, `train/acc`,
            `val/loss`, `val/acc`.
        learning_rates: Pairs of epochs done (with fractions) and learning rate.
    """
    figure = new_figure(11, 3.4, left=0.05, right=0.99, bottom=0.14, top=0.91, wspace=0.25)
    loss, accuracy, rate = figure.subplots(1, 3)
    for axes, name in ((loss, "loss"), (accuracy, "acc")):
        for stage, color, style in (("train", BLUE, "o-"), ("val", ORANGE, "s--")):
            points = [(row["epoch"], row[f"{stage}/{name}"]) for row in epochs if f"{stage}/{name}" in row]
            if points:
                marker_size = 4 if len(points) <= 40 else 0
                axes.plot(*zip(*points, strict=True), style, color=color, markersize=marker_size, label=stage)
        if axes.lines:
            axes.legend()
    loss.set(title="Loss")
    accuracy.set(title="Accuracy")
    accuracy.yaxis.set_major_formatter(PercentFormatter(1))
    rate.set(title="Learning rate")
    if learning_rates:
        rate.plot(*zip(*learning_rates, strict=True), color=GREEN)
    for axes in (loss, accuracy, rate):
        axes.set_xlabel("epochs")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        axes.grid(alpha=0.3)
    return figure


def draw_difference(change: np.ndarray, names: Sequence[str], title: str) -> Figure:
    """Draw how the rows of a confusion matrix changed; the sign stands in every cell, for eyes without colour.

    Args:
        change: (K, K) percentage points of the true class, rows true, columns predicted.
        names: K class names.
        title: Title of the figure.
    """
    number = len(names)
    side = 2.4 + (0.58 * number if number <= CELL_TEXT_LIMIT else 0.16 * min(number, 60))
    figure = new_figure(max(side, 4.6) + 0.8, max(side, 4.4) + 0.3)
    axes = figure.add_subplot()
    limit = max(float(np.abs(change).max()), 1e-9)
    picture = axes.imshow(change, cmap="PuOr_r", vmin=-limit, vmax=limit)
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.set_title(title, fontsize=9, parse_math=False)
    if number <= CLASS_LIMIT:
        name_ticks(axes.xaxis, names, rotation=45, ha="right", rotation_mode="anchor")
        name_ticks(axes.yaxis, names)
    if number <= CELL_TEXT_LIMIT:
        for row, column in np.ndindex(change.shape):
            value = round(float(change[row, column]), 1)
            color = "white" if abs(value) > 0.6 * limit else "#222222"
            text = f"{value:+.1f}" if value else "0"
            axes.text(column, row, text, ha="center", va="center", fontsize=7.5, color=color)
    bar = figure.colorbar(picture, ax=axes, fraction=0.046, pad=0.03)
    bar.set_label("percentage points of the true class")
    return figure


def name_ticks(axis: Axis, class_names: Sequence[str], **style: Any) -> None:
    """Write class names at 0, 1, 2 and so on, each in a font that has its characters."""
    labels = tick_labels(class_names)
    axis.set_ticks(range(len(labels)), [label for label, _ in labels], parse_math=False, **style)
    for text, (_, font) in zip(axis.get_ticklabels(), labels, strict=True):
        text.set_fontproperties(FontProperties(fname=font, size=text.get_fontsize()))
