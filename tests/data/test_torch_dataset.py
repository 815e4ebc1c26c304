"""Any torch Dataset: forms of pictures, where labels and names come from, and what is told about wrong ones."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset
from torchvision.datasets import FakeData

from image_classifier.data.torch_dataset import TorchDataset
from image_classifier.engine.errors import UserError
from picture_sources import CLASSES, Pairs

SETTINGS: dict[str, Any] = {"image_size": 12, "batch_size": 4, "val_size": 0.25, "num_workers": 0}


def make(**settings: Any) -> TorchDataset:
    datamodule = TorchDataset(**SETTINGS | settings)
    datamodule.prepare_data()
    datamodule.setup("fit")
    datamodule.setup("test")
    return datamodule


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("form", ["image", "array", "tensor", "float"])
def test_pictures_and_labels_in_all_forms(form: str, told: bool) -> None:
    reference, datamodule = make(train=Pairs(8)), make(train=Pairs(8, form=form, told=told))
    assert torch.equal(datamodule.train_images.images, reference.train_images.images)
    assert torch.equal(datamodule.test_images.labels, reference.test_images.labels)
    assert datamodule.class_names == (CLASSES if told else ("0", "1", "2"))


def test_parts_of_their_own() -> None:
    datamodule = make(train=Pairs(8), val=Pairs(3, seed=1), test=Pairs(2, seed=2))
    assert (len(datamodule.train_indices), len(datamodule.val_indices)) == (24, 9)
    assert len(datamodule.test_images.labels) == 6
    assert datamodule.describe_split() == {"val": "a part of its own", "test": "a part of its own"}


def test_datasets_of_torch_and_torchvision() -> None:
    datamodule = make(train=FakeData(40, (3, 20, 10), 4, random_offset=3))
    assert datamodule.class_names == ("0", "1", "2", "3") and len(datamodule.test_images.labels) == 8
    datamodule = make(train=Subset(Pairs(8), list(range(0, 24, 2))), class_names=list(CLASSES))
    assert datamodule.class_names == CLASSES and len(datamodule.train_images.labels) == 10
    pixels = torch.randint(256, (20, 1, 12, 12), dtype=torch.uint8)
    datamodule = make(train=TensorDataset(pixels, torch.arange(20) % 2), channels=1)
    assert torch.equal(datamodule.train_images.images, pixels[datamodule.files["train"].positions])


def test_bad_items_are_named_at_once() -> None:
    dataset = Pairs(8)
    for index in (3, 20):
        dataset.pairs[index] = (np.full((4, 4, 9), 3), dataset.pairs[index][1])
    with pytest.raises(UserError, match=r"pictures in Pairs but found 2 that .*: item 3 \(expected .*item 20 \("):
        make(train=dataset, test_size=3)
    assert make(train=dataset, test_size=3, on_error="skip").summary().to_json()["unreadable"][0]["picture"] == "item 3"


class Stream(IterableDataset):
    def __iter__(self) -> Any:
        yield 1


class Unlabelled(Dataset):
    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> Any:
        return np.zeros((4, 4), dtype=np.uint8)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train": Stream()}, r"length and items for data\.train but found Stream; write one with __len__"),
        ({"train": Pairs(4), "test": 5}, r"length and items for data\.test but found int"),
        ({"train": Unlabelled()}, r"items of a picture and a label in data\.train but found ndarray at 0; return"),
        ({"train": Pairs(4, told=False), "class_names": ["a", "b"]}, r"a name for each of 3 classes of Pairs but"),
        ({"train": Pairs(4), "class_names": ["red", "green", "blue"]}, r"the order of its labels \(blue, green, red\)"),
        ({"train": Pairs(0)}, r"labels from 0 in data\.train, one an item, but found none"),
        ({"train": TensorDataset(torch.zeros(9, 1, 4, 4), torch.arange(9) - 1)}, r"from 0 .* found tensor\(-1\) at 0"),
        ({"train": Pairs(4, form="float"), "test": TensorDataset(torch.full((9, 3, 4, 4), 2.5), torch.zeros(9).long())},
         r"values from 0 to 1 but found 2\.5 to 2\.5; leave normalisation out"),
    ],
)  # fmt: skip
def test_wrong_datasets_are_told(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as told:
        make(**settings)
    assert "\n" not in str(told.value)


def test_it_cannot_be_relocated() -> None:
    with pytest.raises(UserError, match="data set in a directory but found TorchDataset, which has none"):
        make(train=Pairs(8)).relocate("elsewhere", CLASSES, {})


class Labelled(Pairs):
    """Items with other labels: of a kind, or made by what is called `by`, as torchvision's classes do."""

    def __init__(self, kind: Any = int, by: str = "", told: bool = True) -> None:
        super().__init__(8, told=told)
        self.kind = kind
        if by in ("target_transform", "transforms"):
            setattr(self, by, kind)
        elif told and not by:
            self.targets = [kind(label) for label in self.targets]

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        image, label = super().__getitem__(index)
        return image, self.kind(label)


@pytest.mark.parametrize("by", ["target_transform", "transforms", "itself"])
@pytest.mark.parametrize("named", [True, False])
def test_labels_that_items_have_are_taken_not_those_before_a_transform(by: str, named: bool) -> None:
    names = {"class_names": ["cold", "warm"]} if named else {}
    datamodule = make(train=Labelled(lambda label: label // 2, by), **names)
    assert datamodule.class_names == (("cold", "warm") if named else ("0", "1"))
    assert torch.bincount(datamodule.files["train"].labels).tolist() == [13, 6]
    assert make(train=Labelled(int, by)).class_names == CLASSES  # the same labels


NUMBERS = (int, float, np.int32, np.float64, torch.tensor, lambda label: torch.tensor([float(label)]), np.array)


@pytest.mark.parametrize("kind", NUMBERS)
@pytest.mark.parametrize("told", [True, False])
def test_whole_numbers_of_all_kinds_are_labels(kind: Any, told: bool) -> None:
    assert torch.bincount(make(train=Labelled(kind, told=told)).files["train"].labels).tolist() == [6, 6, 7]


@pytest.mark.parametrize("by", ["", "target_transform"])
@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize(
    ("kind", "shown"),
    [
        (lambda label: label + 0.5, "0.5"),
        (lambda label: float("nan"), "nan"),
        (lambda label: torch.tensor(label + 0.5), r"tensor\(0\.5000\)"),
        (lambda label: CLASSES[label], "'blue'"),
        (lambda label: np.eye(3)[label], r"array\(\[1\., 0\., 0\.\]\)"),
        (lambda label: torch.eye(3)[label], r"tensor\(\[1\., 0\., 0\.\]\)"),
        (lambda label: None, "None"),
        (lambda label: {"label": label}, r"\{'label': 0\}"),
        (lambda label: label - 1, "-1"),
    ],
)
def test_labels_that_are_no_numbers_of_classes_are_told(kind: Any, shown: str, told: bool, by: str) -> None:
    with pytest.raises(UserError, match=rf"^expected labels from 0 in data\.train, .* found {shown} at 0; ") as error:
        make(train=Labelled(kind, by, told))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "labels", [torch.eye(3)[torch.arange(24) % 3], np.linspace(0, 2, 24), np.array(["a", "b"] * 12)]
)
def test_told_labels_that_are_no_numbers_give_way_to_those_of_items(labels: Any) -> None:
    dataset = Pairs(8)
    dataset.targets = labels
    datamodule = make(train=dataset)
    assert torch.equal(datamodule.files["train"].labels, make(train=Pairs(8)).files["train"].labels)
    assert datamodule.class_names == CLASSES


def test_an_item_that_cannot_be_read_for_its_label_is_told() -> None:
    class Broken(Labelled):
        def __getitem__(self, index: int) -> Any:
            return super().__getitem__(index) if index != 5 else Image.open("/nowhere.png")

    with pytest.raises(UserError, match=r"picture and a label in data\.train but found none at 5: No such file"):
        make(train=Broken(int, "target_transform"))
    assert make(train=Broken(), on_error="skip", test_size=3).unreadable[0]["picture"] == "item 5"
