import numpy as np
from PIL import ImageColor

from image_classifier.engine.figures.colors import BLUE, GREY
from image_classifier.engine.figures.reliability import LOWER, UPPER, Plot, draw_reliability


def bar_height(picture: np.ndarray, plot: Plot, confidence: float, color: str) -> float:
    """The share that a bar shows, read from the picture's pixels."""
    column = picture[plot.top : plot.bottom, plot.x(confidence)]
    return (column == ImageColor.getrgb(color)).all(1).sum() / (plot.bottom - plot.top)


def test_bars_are_as_high_as_their_shares_and_empty_bins_stay_empty() -> None:
    count, confidence, accuracy = np.array([0, 3, 1]), np.array([0, 0.5, 0.9]), np.array([0.7, 2 / 3, 1])
    picture = draw_reliability(count, confidence, accuracy, "test")
    beside = (0.25, 0.38, 0.75)  # the bars' middles are covered by dots, legend and diagonal
    upper = [bar_height(picture, UPPER, place, BLUE) for place in beside]
    lower = [bar_height(picture, LOWER, place, GREY) for place in beside]
    np.testing.assert_allclose(upper, (0, 2 / 3, 1), atol=0.02)
    np.testing.assert_allclose(lower, (0, 0.75, 0.25), atol=0.02)
