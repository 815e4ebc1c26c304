"""Draw a confusion matrix. Rows are true classes, columns predicted ones."""

from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from image_classifier.confusion.matrix import Normalization, normalize

CELL_TEXT_LIMIT = 25  # more classes than this: cells carry no text
TICK_LABEL_LIMIT = 50  # more classes than this: the axes carry no names
LABEL_LENGTH = 24  # longer class names are cut


def draw_confusion_matrix(
    counts: Tensor, class_names: Sequence[str], mode: Normalization = "none", title: str = ""
) -> Figure:
    """Draw counts and row percentages; colours show the share of the true class, so rare classes show too.

    Args:
        counts: (K, K) int64, rows true, columns predicted.
        class_names: K names.
        mode: Normalisation of the printed values; "none" prints the count and the row percentage.
        title: Title of the figure.

    Returns:
        A figure with its own Agg canvas, unknown to pyplot.
    """
    number = len(class_names)
    row_shares = normalize(counts, "true").numpy()
    side = 2.4 + (0.62 * number if number <= CELL_TEXT_LIMIT else 0.16 * min(number, 60))
    figure = Figure(figsize=(max(side, 4.6) + 0.6, max(side, 4.2)), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    shown = row_shares if mode in ("none", "true") else normalize(counts, mode).numpy()
    picture = axes.imshow(shown, cmap="Blues", vmin=0, vmax=max(float(shown.max()), 1e-9) if mode == "all" else 1)
    axes.set(xlabel="predicted class", ylabel="true class", title=title)
    if number <= TICK_LABEL_LIMIT:
        labels = [shorten(name) for name in class_names]
        axes.set_xticks(range(number), labels, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(number), labels)
    if number <= CELL_TEXT_LIMIT:
        write_cells(axes, counts.numpy(), row_shares, shown, mode)
    bar = figure.colorbar(picture, ax=axes, fraction=0.046, pad=0.03)
    bar.set_label(
        {"pred": "share of the predicted class", "all": "share of all samples"}.get(mode, "share of the true class")
    )
    return figure


def write_cells(axes, counts: np.ndarray, row_shares: np.ndarray, shown: np.ndarray, mode: Normalization) -> None:  # type: ignore[no-untyped-def]
    dark = shown > 0.55 * shown.max()
    for row, column in np.ndindex(counts.shape):
        if mode == "none":
            text = f"{counts[row, column]}\n{row_shares[row, column]:.1%}" if counts[row, column] else "0"
        else:
            text = f"{shown[row, column]:.3f}" if shown[row, column] else "0"
        color = "white" if dark[row, column] else "#222222"
        axes.text(column, row, text, ha="center", va="center", fontsize=7.5, color=color, linespacing=1.1)


def shorten(name: str) -> str:
    """Cut a long class name in the middle."""
    if len(name) <= LABEL_LENGTH:
        return name
    half = (LABEL_LENGTH - 1) // 2
    return f"{name[:half]}\N{HORIZONTAL ELLIPSIS}{name[-half:]}"


def to_array(figure: Figure) -> np.ndarray:
    """Render a figure to (H, W, 3) uint8."""
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
