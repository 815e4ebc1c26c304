"""Pure functions on a K x K count matrix: normalise, per-class figures, most confused pairs, keys, CSV."""

import io
import re
from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from image_classifier.engine.confusion.tables import csv_text, read_rows

Normalization = Literal["none", "true", "pred", "all"]
NORMALIZATIONS: tuple[Normalization, ...] = ("none", "true", "pred", "all")
FIGURES = ("precision", "recall", "f1")  # of each class


class ClassMetrics(NamedTuple):
    """Per-class figures, each (K,) float64; 0 where there is nothing to divide by."""

    precision: Tensor
    recall: Tensor
    f1: Tensor
    support: Tensor  # (K,) int64, true samples of each class


class ConfusedPair(NamedTuple):
    """Samples of one class that were taken for another."""

    true: str
    predicted: str
    samples: int
    share: float  # of the true class's samples


def normalize(counts: Tensor, mode: Normalization = "none") -> Tensor:
    """Turn counts into shares.

    Args:
        counts: (K, K) integer, rows true, columns predicted.
        mode: "true" divides by the row sum, "pred" by the column sum, "all" by the total; "none" leaves counts.

    Returns:
        (K, K), int64 for "none", float64 from 0 to 1 otherwise; an empty row or column stays 0.

    Raises:
        ValueError: Unknown mode.
    """
    if mode == "none":
        return counts
    if mode not in NORMALIZATIONS:
        raise ValueError(f"Expected `mode` to be one of {NORMALIZATIONS} but got {mode!r}")
    sums = {
        "true": lambda: counts.sum(1, keepdim=True),
        "pred": lambda: counts.sum(0, keepdim=True),
        "all": lambda: counts.sum().view(1, 1),
    }[mode]()
    return counts.double() / sums.clamp(min=1)


def class_metrics(counts: Tensor) -> ClassMetrics:
    """Precision, recall, F1 and support of each class from (K, K) counts."""
    correct = counts.diagonal().double()
    true, predicted = counts.sum(1), counts.sum(0)
    return ClassMetrics(
        precision=correct / predicted.clamp(min=1),
        recall=correct / true.clamp(min=1),
        f1=2 * correct / (true + predicted).clamp(min=1),
        support=true,
    )


def overall_metrics(counts: Tensor) -> dict[str, float]:
    """Accuracy, balanced accuracy, macro and weighted F1 from (K, K) counts.

    Classes without samples do not enter the balanced accuracy (as in scikit-learn), and those that were
    neither present nor predicted do not enter the macro F1.
    """
    metrics = class_metrics(counts)
    present = metrics.support > 0
    appearing = present | (counts.sum(0) > 0)
    total = max(int(counts.sum()), 1)
    if not present.any():
        return dict.fromkeys(("accuracy", "balanced_acc", "macro_f1", "weighted_f1"), 0.0)
    return {
        "accuracy": int(counts.diagonal().sum()) / total,
        "balanced_acc": float(metrics.recall[present].mean()),
        "macro_f1": float(metrics.f1[appearing].mean()),
        "weighted_f1": float((metrics.f1 * metrics.support).sum() / total),
    }


def most_confused(counts: Tensor, class_names: Sequence[str], limit: int = 10) -> list[ConfusedPair]:
    """The most frequent off-diagonal pairs, most frequent first (ties in reading order), without empty ones."""
    support = counts.sum(1).tolist()
    return [
        ConfusedPair(class_names[true], class_names[predicted], samples, samples / support[true])
        for true, predicted, samples in largest_errors(counts, limit)
    ]


def most_confused_classes(counts: Tensor, limit: int) -> list[int]:
    """Positions, ascending, of the classes in the most frequent off-diagonal pairs; those without errors are out."""
    chosen: set[int] = set()
    for true, predicted, _ in largest_errors(counts, limit**2):
        with_pair = chosen | {true, predicted}
        if len(with_pair) > limit:
            break
        chosen = with_pair
    return sorted(chosen)


def largest_errors(counts: Tensor, limit: int) -> list[tuple[int, int, int]]:
    """(true, predicted, samples) of the largest off-diagonal cells, largest first (ties in reading order)."""
    errors = counts.clone().fill_diagonal_(0).flatten()
    limit = min(limit, len(errors))
    if limit == 0:
        return []
    # Sorting a million cells takes a tenth of a second; finding the value of the last one wanted takes a hundredth.
    smallest = errors.topk(limit).values[-1].clamp(min=1)
    candidates = (errors >= smallest).nonzero().flatten()
    order = errors[candidates].argsort(descending=True, stable=True)[:limit]
    chosen = candidates[order]
    return [
        (*divmod(position, len(counts)), samples)
        for position, samples in zip(chosen.tolist(), errors[chosen].tolist(), strict=True)
    ]


def slug(class_name: str) -> str:
    """A class name fit for a metric key: every character outside `[A-Za-z0-9_.-]` becomes `_`."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", class_name)


def shown_cells(counts: Tensor, max_cells: int, top: int) -> list[tuple[int, int]]:
    """Which cells to log one by one, as (true, predicted), row by row.

    Args:
        counts: (K, K) integer.
        max_cells: With more cells than this, only the diagonal and the largest confusions are shown.
        top: How many of the largest confusions.
    """
    number = len(counts)
    if number**2 <= max_cells:
        return [(true, predicted) for true in range(number) for predicted in range(number)]
    diagonal = [(position, position) for position in range(number)]
    return sorted(diagonal + [(true, predicted) for true, predicted, _ in largest_errors(counts, top)])


def cell_scalars(
    matrix: Tensor, class_names: Sequence[str], prefix: str, cells: Sequence[tuple[int, int]]
) -> dict[str, float]:
    """One scalar per shown cell, keyed `<prefix>/<true>/<predicted>`; for two classes tp, tn, fp, fn of class 1."""
    if len(class_names) == 2:
        (tn, fp), (fn, tp) = matrix.tolist()
        return {f"{prefix}/{name}": value for name, value in (("tp", tp), ("tn", tn), ("fp", fp), ("fn", fn))}
    slugs = unique_slugs(class_names)
    return {f"{prefix}/{slugs[true]}/{slugs[predicted]}": matrix[true, predicted].item() for true, predicted in cells}


def nested_table(
    matrix: Tensor, class_names: Sequence[str], cells: Sequence[tuple[int, int]]
) -> dict[str, dict[str, float]]:
    """The shown cells keyed by real names, predicted first: `{predicted: {true: value}}`."""
    table: dict[str, dict[str, float]] = {}
    for true, predicted in sorted(cells, key=lambda cell: (cell[1], cell[0])):
        table.setdefault(class_names[predicted], {})[class_names[true]] = matrix[true, predicted].item()
    return table


def per_class_scalars(counts: Tensor, class_names: Sequence[str], stage: str) -> dict[str, float]:
    """Precision, recall and F1 keyed `per_class/<stage>/<figure>/<class>`."""
    metrics = class_metrics(counts)
    return {
        f"per_class/{stage}/{figure}/{name}": value
        for figure in FIGURES
        for name, value in zip(unique_slugs(class_names), getattr(metrics, figure).tolist(), strict=True)
    }


def unique_slugs(class_names: Sequence[str]) -> list[str]:
    """Slugs of all classes, no two the same: where names share one, their position is added, and `_` as needed.

    The same names in the same order have the same slugs, in every run.
    """
    plain = [slug(name) for name in class_names]
    appearances = Counter(plain)
    taken, slugs = set(plain), []
    for position, name in enumerate(plain):
        if appearances[name] > 1:
            name = f"{name}_{position}"
            while name in taken:
                name += "_"
            taken.add(name)
        slugs.append(name)
    return slugs


def check_class_names(class_names: Sequence[str]) -> None:
    """Refuse duplicate names, whose rows could not be told apart.

    Raises:
        ValueError: Two classes have the same name.
    """
    duplicates = [name for name, appearances in Counter(class_names).items() if appearances > 1]
    if duplicates:
        raise ValueError(f"Expected class names that differ but got {', '.join(map(repr, duplicates))} more than once")


def to_csv(counts: Tensor, class_names: Sequence[str]) -> str:
    """Raw counts as CSV: header and first column are class names, rows true, columns predicted."""
    rows = ([name, *row] for name, row in zip(class_names, counts.tolist(), strict=True))
    return csv_text([["true \\ predicted", *class_names], *rows])


def from_csv(text: str) -> tuple[Tensor, list[str]]:
    """Counts and class names from what `to_csv` wrote."""
    header, *rows = read_rows(io.StringIO(text))
    return torch.tensor([[int(cell) for cell in row[1:]] for row in rows]), header[1:]
