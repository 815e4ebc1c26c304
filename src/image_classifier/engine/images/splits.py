"""Stratified parts of labelled samples."""

import torch
from torch import Tensor

from image_classifier.engine.errors import UserError


def stratified_split(
    labels: Tensor, val_size: int | float, seed: int, setting: str = "data.val_size"
) -> tuple[Tensor, Tensor]:
    """Split samples in two, with the same share of each class in both (largest remainders).

    Args:
        labels: (N,) int64.
        val_size: Number of samples in the second part, or their fraction when below 1.
        seed: Seed of the choice.
        setting: Where the user sets `val_size`, for the error.

    Returns:
        Indices of the first part (training) and of the second (validation), both int64 and ascending.

    Raises:
        UserError: One of the parts would be empty.
    """
    count = round(val_size * len(labels)) if val_size < 1 else int(val_size)
    if not 0 < count < len(labels):
        raise UserError(
            f"expected to hold out 1 to {len(labels) - 1} of {len(labels)} images but found {count}; "
            f"set {setting} to a count or a fraction"
        )
    generator = torch.Generator().manual_seed(seed)
    labels = labels.unique(return_inverse=True)[1]  # images without a label are a class of their own here
    per_class = torch.bincount(labels)
    share = per_class * (count / len(labels))
    quota = share.floor().long()
    missing = count - int(quota.sum())
    quota[(share - quota).argsort(descending=True, stable=True)[:missing]] += 1
    order = torch.randperm(len(labels), generator=generator)
    by_class = order[labels[order].argsort(stable=True)]  # shuffled within each class
    starts = per_class.cumsum(0) - per_class
    position = torch.arange(len(labels)) - starts[labels[by_class]]  # position within its class
    chosen = position < quota[labels[by_class]]
    return by_class[~chosen].sort().values, by_class[chosen].sort().values


def stratified_fold(labels: Tensor, folds: int, fold: int, seed: int) -> tuple[Tensor, Tensor]:
    """Hold out one of several parts that together are all samples; sizes of parts and of classes differ by one at most.

    Args:
        labels: (N,) int64.
        folds: Number of parts.
        fold: Which of them is held out, from 0.
        seed: Seed of the parts.

    Returns:
        Indices for training and for validation, both int64 and ascending.

    Raises:
        UserError: There are fewer samples than parts, or there is no such part.
    """
    if not 2 <= folds <= len(labels):
        raise UserError(f"expected data.folds to be from 2 to {len(labels)}, the images there are, but found {folds}")
    if not 0 <= fold < folds:
        raise UserError(f"expected data.fold to be from 0 to {folds - 1} but found {fold}; for example data.fold=0")
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    by_class = order[labels[order].argsort(stable=True)]  # shuffled within each class
    held_out = torch.arange(len(labels)) % folds == fold
    return by_class[~held_out].sort().values, by_class[held_out].sort().values
