"""Pictures of matrices of any size, with names of any kind."""

import gc
import re
import resource
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from image_classifier.engine.confusion.matrix import NORMALIZATIONS, Normalization
from image_classifier.engine.figures import confusion_matrix as draw
from image_classifier.engine.figures import labels
from image_classifier.engine.project import PROJECT_ROOT

LONG = "a very long class name that nobody would ever want to read in full"


def example(classes: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(classes)
    counts = torch.eye(classes, dtype=torch.int64) * 50
    rows, columns = torch.randint(classes, (2, 3 * classes), generator=generator)
    counts[rows, columns] += torch.randint(1, 9, (3 * classes,), generator=generator)
    return counts


def names_of(classes: int) -> list[str]:
    return [f"class {index}" for index in range(classes)]


@pytest.mark.parametrize("classes", [2, 3, 10, 25, 26, 50, 51, 100, 1000])
@pytest.mark.parametrize("mode", NORMALIZATIONS)
def test_every_size_fits_on_a_white_border(classes: int, mode: Normalization) -> None:
    picture = draw.draw_confusion_matrix(example(classes), names_of(classes), mode, "val, epoch 3, accuracy 91.20%")
    assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3
    for edge in (picture[:3], picture[-3:], picture[:, :3], picture[:, -3:]):
        assert (edge == 255).all()  # nothing is clipped


@pytest.mark.parametrize("name", [LONG, "猫", "Ünï/cødé", "$x^2$", 'with "quotes", and commas', "line\nbreak", ""])
@pytest.mark.filterwarnings("ignore:no installed font")
def test_no_name_is_clipped(name: str) -> None:
    picture = draw.draw_confusion_matrix(example(3), [name, "b", LONG], title=LONG)
    for edge in (picture[:3], picture[-3:], picture[:, :3], picture[:, -3:]):
        assert (edge == 255).all()


def test_row_is_the_true_class() -> None:
    """The one wrong cell, row 0 and column 1, is dark where the picture has it and nowhere else."""
    counts = torch.tensor([[0, 9, 0], [0, 0, 0], [0, 0, 0]])
    panel = draw.whole_panel(counts, ["a", "b", "c"], "none", "")
    picture = draw.draw_confusion_matrix(counts, ["a", "b", "c"])
    left, top = panel.left, draw.TOP
    matrix = picture[top : top + panel.side, left : left + panel.side]
    corners = matrix[5 :: panel.cell, 5 :: panel.cell].astype(int).sum(-1)  # beside the texts of the cells
    assert corners.argmin() == 1
    assert (np.delete(corners.ravel(), 1) > 700).all()


@pytest.mark.parametrize(("classes", "texts", "ticks"), [(25, 625, 25), (26, 0, 26), (50, 0, 50), (51, 0, 0)])
def test_texts_and_labels_leave_crowded_matrices(classes: int, texts: int, ticks: int) -> None:
    panel = draw.whole_panel(example(classes), names_of(classes), "none", "")
    assert (len(panel.texts), len(panel.labels)) == (texts, ticks)


def test_most_confused_classes_stand_beside_large_matrices() -> None:
    counts = torch.eye(100, dtype=torch.int64) * 90
    plain = draw.draw_confusion_matrix(counts, names_of(100))
    counts[40, 60] = 10
    with_panel = draw.draw_confusion_matrix(counts, names_of(100))
    assert with_panel.shape[1] > plain.shape[1]
    panel = draw.confused_panel(counts, names_of(100), "none", [40, 60])
    assert [label for label, _ in panel.labels] == ["class 40", "class 60"]
    assert panel.texts == ["90\n90.0%", "10\n10.0%", "0", "90\n100.0%"]  # shares of the whole row


def test_colours_get_darker_in_grey_too() -> None:
    luminance = draw.COLORS @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(luminance) <= 1).all() and luminance[0] - luminance[-1] > 150


def test_labels_that_would_look_alike_carry_their_position() -> None:
    shown = [label for label, _ in labels.tick_labels([LONG + " a", LONG.replace("nobody", "no one") + " a", "cat"])]
    assert shown[0].startswith("0: ") and shown[1].startswith("1: ") and shown[2] == "cat"
    assert all(len(label) <= labels.LABEL_LENGTH + 3 for label in shown)


def test_characters_without_a_glyph_become_squares_and_are_warned_about_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels.fontManager, "ttflist", [])  # a machine with no font of its own
    labels.font_for.cache_clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        shown = labels.tick_labels(["猫", "cat", "犬 dog", ""])
    labels.font_for.cache_clear()
    assert len(caught) == 1 and "no installed font" in str(caught[0].message)
    assert [label for label, _ in shown] == ["0: \u25a1", "cat", "2: \u25a1 dog", "3: "]


def test_drawing_does_not_leak() -> None:
    counts = example(10)

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    for _ in range(20):
        draw.draw_confusion_matrix(counts, names_of(10))
    gc.collect()
    before = resident()
    for _ in range(200):
        draw.draw_confusion_matrix(counts, names_of(10))
    assert resident() - before < 8e6  # one picture is 2 MB: 200 kept ones would be 400 MB


def test_nothing_uses_pyplot() -> None:
    for path in (PROJECT_ROOT / "src").rglob("*.py"):
        assert not re.search(r"\bplt\b|import .*pyplot|matplotlib\.pyplot", path.read_text()), path
