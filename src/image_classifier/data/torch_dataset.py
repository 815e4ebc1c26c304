"""Whichever torch Dataset: its items are pictures and labels."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from image_classifier.data.pictures import PictureDataModule
from image_classifier.engine.errors import UserError
from image_classifier.engine.images.picture_sets import PictureItems, Pictures

LABELS = ("targets", "labels", "_labels", "_targets")  # what torchvision's classes call them
CLASSES = ("classes", "class_names", "categories")


class TorchDataset(PictureDataModule):
    """Datasets with a length whose items are a picture and a label.

    A picture is an image of Pillow's, or an array or tensor as `as_image` takes it; it must be the same each time it is
    asked for, so random transforms belong into `augmentation`. Labels are whole numbers from 0. They are read from
    `targets` or `labels` of the Dataset, or else from each item, one after the other.

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
        self.class_names = self.name_classes(datasets["train"], max(int(found.max()) for found in labels.values()) + 1)
        return {part: PictureItems(dataset, first_of_item, labels[part]) for part, dataset in datasets.items()}

    def name_classes(self, dataset: Any, number: int) -> tuple[str, ...]:
        """The names that the Dataset gives, or else the setting `class_names`, or else numbers."""
        own = next((getattr(dataset, name) for name in CLASSES if getattr(dataset, name, None)), None)
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


def labels_of(dataset: Any, setting: str) -> Tensor:
    """The (N,) int64 labels of a Dataset.

    Raises:
        UserError: There are none, or they are no whole numbers from 0.
    """
    found: Iterable[Any] | None = next((getattr(dataset, name) for name in LABELS if hasattr(dataset, name)), None)
    if found is None or len(found) != len(dataset):  # type: ignore[arg-type]
        found = [label_of(dataset[index], index, setting) for index in range(len(dataset))]
    labels = torch.as_tensor(found if isinstance(found, Tensor) else list(found))
    if not len(labels) or labels.ndim != 1 or labels.is_floating_point() or int(labels.min()) < 0:
        shown = f"{list(labels[:3].tolist())} ..." if len(labels) else "none"
        raise UserError(f"expected labels from 0 in {setting}, one an item, but found {shown}; correct the Dataset")
    return labels.long()


def label_of(item: Any, index: int, setting: str) -> int:
    if not isinstance(item, Sequence) or len(item) < 2:
        raise UserError(
            f"expected items of a picture and a label in {setting} but found {type(item).__name__} at {index}; "
            "return (picture, label)"
        )
    return int(item[1])
