"""Whichever torch Dataset: its items are pictures and labels."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from image_classifier.data.pictures import PictureDataModule
from image_classifier.engine.errors import UserError
from image_classifier.engine.images.picture_sets import PictureItems, Pictures
from image_classifier.engine.images.pictures import reason

LABELS = ("targets", "labels", "_labels", "_targets")  # what torchvision's classes call them
COMPARED = 16  # items whose labels are compared with those
CLASSES = ("classes", "class_names", "categories")


class TorchDataset(PictureDataModule):
    """Datasets with a length whose items are a picture and a label.

    A picture is an image of Pillow's, or an array or tensor as `as_image` takes it; it must be the same each time it is
    asked for, so random transforms belong into `augmentation`. Labels are whole numbers from 0. They are read from
    `targets` or `labels` of the Dataset or, where it has none or hands out others, from each item, one after the other.

    Args:
        train: The Dataset for training.
        val: The one for validation; None for a share of the training pictures.
        test: The one for the test; None for a share of the training pictures.
        settings: Arguments of PictureDataModule; `class_names` names the classes of a Dataset without `classes`.
    """

    def __init__(self, *, train: Any, val: Any = None, test: Any = None, **settings: Any) -> None:
        super().__init__(**settings)
        self.datasets = {"train": train, "val": val, "test": test}
        for part, dataset in self.datasets.items():
            lacking = [name for name in ("__len__", "__getitem__") if not hasattr(dataset, name)]
            if dataset is not None and (lacking or isinstance(dataset, IterableDataset)):
                raise UserError(
                    f"expected a Dataset with a length and items for data.{part} but found {type(dataset).__name__}; "
                    "write one with __len__ and __getitem__"
                )

    @property
    def place_found(self) -> str:
        return type(self.datasets["train"]).__name__

    def find_parts(self, skipped: Counter[str]) -> dict[str, Pictures]:
        datasets = {part: dataset for part, dataset in self.datasets.items() if dataset is not None}
        labels = {part: labels_of(dataset, f"data.{part}") for part, dataset in datasets.items()}
        number = max(int(found.max()) for found in labels.values()) + 1
        self.class_names = self.name_classes(datasets["train"], number, labels["train"])
        return {part: PictureItems(dataset, first_of_item, labels[part]) for part, dataset in datasets.items()}

    def name_classes(self, dataset: Any, number: int, labels: Tensor) -> tuple[str, ...]:
        """The names that the Dataset gives to these labels, or else the setting `class_names`, or else numbers."""
        own = next((getattr(dataset, name) for name in CLASSES if getattr(dataset, name, None)), None)
        told = [whole_number(label) for label in told_labels(dataset) or []]
        if None not in told and told not in ([], labels.tolist()):
            own = None  # they are of the labels that a transform makes others of
        names = [str(name) for name in own or self.wanted_names or range(number)]
        if own and self.wanted_names not in (None, names):
            raise UserError(
                f"expected the classes of {self.place_found} in the order of its labels ({', '.join(names)}) but found "
                f"data.class_names={self.wanted_names}; leave it out"
            )
        if len(names) < max(number, 2):
            raise UserError(
                f"expected a name for each of {max(number, 2)} classes of {self.place_found} but found "
                f"{', '.join(names)}; for example data.class_names=[{','.join(map(str, range(max(number, 2))))}]"
            )
        return tuple(names)


def first_of_item(item: Any) -> Any:
    """The picture of an item."""
    return item[0]


def told_labels(dataset: Any) -> list[Any] | None:
    """The labels that a Dataset has beside its items; None where it has none."""
    found: Any = next((getattr(dataset, name) for name in LABELS if hasattr(dataset, name)), None)
    if found is None or len(found) != len(dataset):
        return None
    return found.tolist() if isinstance(found, Tensor) else list(found)


def labels_of(dataset: Any, setting: str) -> Tensor:
    """The (N,) int64 labels of a Dataset.

    Raises:
        UserError: There are none, or they are no whole numbers from 0.
    """
    found = told_labels(dataset)
    if found is None or relabels(dataset, found):
        found = [label_of(dataset, index, setting) for index in range(len(dataset))]
    if not found:
        raise UserError(f"expected labels from 0 in {setting}, one an item, but found none; correct the Dataset")
    labels = [whole_number(label) for label in found]
    for index, label in enumerate(labels):
        if label is None or label < 0:
            shown = " ".join(repr(found[index]).split())[:80]
            raise UserError(
                f"expected labels from 0 in {setting}, one an item, but found {shown} at {index}; have the Dataset, or "
                "its target_transform, return the number of the class"
            )
    return torch.tensor(labels)


def relabels(dataset: Any, told: Sequence[Any]) -> bool:
    """Whether items have other labels than those told: by a transform, or as some of them show."""
    joint = getattr(dataset, "transforms", None)
    if getattr(dataset, "target_transform", None) is not None:
        return True
    if joint is not None and not hasattr(joint, "target_transform"):  # no pair of separate ones, as torchvision makes
        return True
    for index in range(0, len(told), max(1, len(told) // COMPARED)):
        try:
            label = whole_number(dataset[index][1])
        except Exception:  # what it raises is told when the pictures are read
            continue
        if label is not None and label != whole_number(told[index]):
            return True
    return False


def label_of(dataset: Any, index: int, setting: str) -> Any:
    try:
        item = dataset[index]
    except Exception as error:  # whatever a damaged file leads it to
        raise UserError(
            f"expected items of a picture and a label in {setting} but found none at {index}: {reason(error)}; "
            "correct or leave out the item"
        ) from error
    if not isinstance(item, Sequence) or len(item) < 2:
        raise UserError(
            f"expected items of a picture and a label in {setting} but found {type(item).__name__} at {index}; "
            "return (picture, label)"
        )
    return item[1]


def whole_number(label: Any) -> int | None:
    """A label as a number; None for one that is no whole number, such as a text, a fraction or a one-hot vector."""
    if isinstance(label, Tensor | np.ndarray | np.generic):
        label = label.item() if (label.numel() if isinstance(label, Tensor) else label.size) == 1 else None
    return int(label) if isinstance(label, int) or (isinstance(label, float) and label.is_integer()) else None
