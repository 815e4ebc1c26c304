import numpy as np
import pytest

from image_classifier.engine.figures import report as draw
from image_classifier.engine.figures.confusion_matrix import to_array


def texts(figure: object) -> list[str]:
    """Every text in a figure, whose place is known only once it is drawn."""
    return [text.get_text() for text in figure.findobj(match=lambda artist: hasattr(artist, "get_text"))]  # type: ignore[attr-defined]


def clipped(figure: object) -> list[str]:
    """Texts that reach out of the picture."""
    to_array(figure)  # type: ignore[arg-type]
    width, height = figure.canvas.get_width_height()  # type: ignore[attr-defined]
    found = []
    for text in figure.findobj(match=lambda artist: hasattr(artist, "get_text")):  # type: ignore[attr-defined]
        box = text.get_window_extent()
        outside = box.x0 < -1 or box.y0 < -1 or box.x1 > width + 1 or box.y1 > height + 1
        if text.get_text().strip() and text.get_visible() and box.width > 0 and outside:
            found.append(text.get_text())
    return found


@pytest.mark.parametrize("number", [10, 30])
def test_difference_shows_the_sign_in_every_cell_and_clips_nothing(number: int) -> None:
    change = np.random.default_rng(0).normal(0, 5, (number, number))
    change[0, 0] = 0
    names = [f"a rather long name of class number {index}" for index in range(number)]
    figure = draw.draw_difference(change, names, "test: second run\nminus first run")
    shown = texts(figure)
    if number <= 25:
        assert f"{change[1, 0]:+.1f}" in shown
        assert "0" in shown
    assert [text for text in clipped(figure) if "name" in text or "run" in text] == []


def test_difference_of_zero_lies_in_the_middle_of_the_colours() -> None:
    figure = draw.draw_difference(np.array([[5.0, -1.0], [0.0, 2.0]]), ["a", "b"], "")
    picture = figure.axes[0].images[0]
    assert (picture.norm.vmin, picture.norm.vmax) == (-5, 5)


def test_learning_curves_show_every_epoch_and_what_is_missing() -> None:
    epochs = [
        {"epoch": 1, "train/loss": 2.0, "val/loss": 1.5, "train/acc": 0.2, "val/acc": 0.3},
        {"epoch": 2, "train/loss": 1.0},
        {"epoch": 3, "train/loss": 0.5, "val/loss": 0.7, "train/acc": 0.8, "val/acc": 0.7},
    ]
    loss, accuracy, rate = draw.draw_learning_curves(epochs, [(0, 0.1), (0.5, 0.2), (1, 0.0)]).axes
    assert loss.lines[0].get_xydata().tolist() == [[1, 2], [2, 1], [3, 0.5]]
    assert loss.lines[1].get_xydata().tolist() == [[1, 1.5], [3, 0.7]]
    assert [line.get_label() for line in accuracy.lines] == ["train", "val"]
    assert rate.lines[0].get_xydata().tolist() == [[0, 0.1], [0.5, 0.2], [1, 0]]
