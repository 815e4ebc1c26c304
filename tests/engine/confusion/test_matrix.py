"""Functions on a count matrix, against scikit-learn and against figures worked out by hand."""

import numpy as np
import pytest
import torch
from sklearn import metrics
from torch import Tensor

from image_classifier.engine.confusion import matrix
from odd_names import ODD_NAMES as ODD_FILE_NAMES

ODD_NAMES = ("T-shirt/top", "a, b", 'the "best"', "ünï cødé", "猫", "100%", "dot.dash-under_score", "line\nbreak")


def random_matrix(classes: int, seed: int = 0, absent: tuple[int, ...] = ()) -> tuple[Tensor, list[int], list[int]]:
    """Counts, and the true and predicted classes behind them; absent classes have no samples."""
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(6, (classes, classes), generator=generator)
    counts[list(absent)] = 0
    cells = counts.nonzero().repeat_interleave(counts[counts > 0], 0)
    return counts, cells[:, 0].tolist(), cells[:, 1].tolist()


@pytest.mark.parametrize("mode", matrix.NORMALIZATIONS)
@pytest.mark.parametrize("absent", [(), (0,), (1, 3)])
def test_normalize_agrees_with_scikit_learn(mode: matrix.Normalization, absent: tuple[int, ...]) -> None:
    counts, true, predicted = random_matrix(5, absent=absent)
    counts[:, 4] = 0  # nothing was predicted as this class
    kept = [(t, p) for t, p in zip(true, predicted, strict=True) if p != 4]
    true, predicted = (list(column) for column in zip(*kept, strict=True))
    expected = metrics.confusion_matrix(true, predicted, labels=range(5), normalize=None if mode == "none" else mode)
    np.testing.assert_allclose(matrix.normalize(counts, mode), expected)


def test_normalize_refuses_an_unknown_mode() -> None:
    with pytest.raises(ValueError, match=r"Expected `mode`.*but got 'rows'"):
        matrix.normalize(torch.eye(2), "rows")  # type: ignore[arg-type]


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("absent", [(), (0,)])
def test_class_metrics_agree_with_scikit_learn(classes: int, absent: tuple[int, ...]) -> None:
    counts, true, predicted = random_matrix(classes, absent=absent)
    expected = metrics.precision_recall_fscore_support(true, predicted, labels=range(classes), zero_division=0)
    for ours, theirs in zip(matrix.class_metrics(counts), expected, strict=True):
        np.testing.assert_allclose(ours, theirs)


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("absent", [(), (0,)])
@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_overall_metrics_agree_with_scikit_learn(classes: int, absent: tuple[int, ...]) -> None:
    counts, true, predicted = random_matrix(classes, absent=absent)
    assert matrix.overall_metrics(counts) == pytest.approx(
        {
            "accuracy": metrics.accuracy_score(true, predicted),
            "balanced_acc": metrics.balanced_accuracy_score(true, predicted),
            "macro_f1": metrics.f1_score(true, predicted, average="macro", zero_division=0),
            "weighted_f1": metrics.f1_score(true, predicted, average="weighted", zero_division=0),
        }
    )


def test_overall_metrics_of_nothing_are_zero() -> None:
    assert set(matrix.overall_metrics(torch.zeros(3, 3, dtype=torch.int64)).values()) == {0.0}


def test_most_confused_pairs_come_largest_first() -> None:
    counts = torch.tensor([[9, 2, 0], [5, 9, 2], [0, 0, 9]])
    assert matrix.most_confused(counts, ["a", "b", "c"], limit=3) == [
        ("b", "a", 5, 5 / 16),
        ("a", "b", 2, 2 / 11),  # of equal counts the first in reading order
        ("b", "c", 2, 2 / 16),
    ]
    assert len(matrix.most_confused(counts, ["a", "b", "c"], limit=1)) == 1
    assert matrix.most_confused(torch.eye(3, dtype=torch.int64), ["a", "b", "c"]) == []


@pytest.mark.parametrize("limit", [0, 1, 5, 50, 10_000])
def test_largest_errors_agree_with_a_full_sort(limit: int) -> None:
    counts, _, _ = random_matrix(20, seed=3)
    cells = [(t, p, int(counts[t, p])) for t in range(20) for p in range(20) if t != p and counts[t, p]]
    assert matrix.largest_errors(counts, limit) == sorted(cells, key=lambda cell: -cell[2])[:limit]


def test_most_confused_classes_come_in_whole_pairs() -> None:
    counts = torch.zeros(60, 60, dtype=torch.int64)
    for position, (true, predicted) in enumerate([(50, 3), (7, 8), (3, 9)]):
        counts[true, predicted] = 10 - position
    assert matrix.most_confused_classes(counts, 15) == [3, 7, 8, 9, 50]
    assert matrix.most_confused_classes(counts, 3) == [3, 50]
    assert matrix.most_confused_classes(torch.eye(60, dtype=torch.int64), 15) == []


def test_slugs_keep_what_keys_may_hold() -> None:
    assert matrix.slug("T-shirt/top") == "T-shirt_top"
    assert matrix.slug("a b\"c'ü猫") == "a_b_c___"
    assert matrix.slug("dot.dash-under_score9") == "dot.dash-under_score9"


def test_slugs_of_different_names_differ() -> None:
    slugs = matrix.unique_slugs(["a b", "a/b", "ab", "猫", "犬"])
    assert len(set(slugs)) == 5 and slugs[2] == "ab"


@pytest.mark.parametrize(
    "names",
    [
        ["a b", "a_b", "a_b_1"],
        ["a_b_1", "a_b", "a b"],
        ["a b", "a/b", "a_b_0", "a_b_0_", "a_b_1", "a_b_1_"],
        ["a_2", "a 2", "a"],
        ["", "_", " ", "__1", "__2"],
        ODD_FILE_NAMES,
        [*ODD_FILE_NAMES, *(f"_{position}" for position in range(9))],
    ],
)
def test_every_pair_of_classes_has_a_key_of_its_own(names: list[str]) -> None:
    number = len(names)
    cells = matrix.shown_cells(torch.arange(number**2).view(number, number), number**2, 0)
    values = torch.arange(number**2).view(number, number)
    scalars = matrix.cell_scalars(values, names, "confusion_matrix/val", cells)
    assert sorted(scalars.values()) == list(range(number**2))
    assert len(matrix.per_class_scalars(values, names, "val")) == 3 * number
    assert matrix.unique_slugs(names) == matrix.unique_slugs(list(names))
    slugs = matrix.unique_slugs(names)
    assert all(scalars[f"confusion_matrix/val/{slugs[t]}/{slugs[p]}"] == t * number + p for t, p in cells)


def test_duplicate_names_are_refused() -> None:
    with pytest.raises(ValueError, match="'cat' more than once"):
        matrix.check_class_names(["cat", "dog", "cat"])
    matrix.check_class_names(["cat", "dog"])


def test_cells_of_two_classes_are_named_after_the_positive_one() -> None:
    counts = torch.tensor([[50, 3], [7, 40]])
    scalars = matrix.cell_scalars(counts, ["no", "yes"], "confusion_matrix/val", matrix.shown_cells(counts, 2500, 50))
    tn, fp, fn, tp = metrics.confusion_matrix([0] * 53 + [1] * 47, [0] * 50 + [1] * 3 + [0] * 7 + [1] * 40).ravel()
    assert scalars == {
        "confusion_matrix/val/tp": tp,
        "confusion_matrix/val/tn": tn,
        "confusion_matrix/val/fp": fp,
        "confusion_matrix/val/fn": fn,
    }


def test_cells_are_keyed_by_true_then_predicted_class() -> None:
    counts = torch.tensor([[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    scalars = matrix.cell_scalars(counts, ["a", "b/c", "d"], "confusion_matrix/val", matrix.shown_cells(counts, 9, 0))
    assert len(scalars) == 9
    assert scalars["confusion_matrix/val/a/b_c"] == 2 and scalars["confusion_matrix/val/b_c/a"] == 4


def test_nested_table_is_keyed_by_predicted_then_true_class() -> None:
    counts = torch.tensor([[1, 2], [3, 4]])
    table = matrix.nested_table(counts, ["a/b", "c"], matrix.shown_cells(counts, 4, 0))
    assert table == {"a/b": {"a/b": 1, "c": 3}, "c": {"a/b": 2, "c": 4}}


def test_large_matrices_show_the_diagonal_and_the_largest_confusions() -> None:
    counts = torch.eye(60, dtype=torch.int64) * 5
    counts[1, 2], counts[3, 4], counts[5, 6] = 9, 8, 7
    diagonal = {(index, index) for index in range(60)}
    assert set(matrix.shown_cells(counts, 2500, top=2)) == diagonal | {(1, 2), (3, 4)}
    assert len(matrix.shown_cells(counts, 3600, top=2)) == 3600


def test_csv_gives_back_counts_and_names() -> None:
    counts, _, _ = random_matrix(len(ODD_NAMES))
    read, names = matrix.from_csv(matrix.to_csv(counts, ODD_NAMES))
    assert torch.equal(read, counts) and tuple(names) == ODD_NAMES
