"""Fashion-MNIST, MNIST and KMNIST: 60,000 training and 10,000 test images of 28 x 28 grey pixels."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import torchvision
from torch import Tensor

from image_classifier.data.datamodule import ImageDataModule
from image_classifier.engine.images.batches import ImageSet
from image_classifier.engine.images.picture_sets import Stamp, stamp
from image_classifier.engine.images.sources import FILES, ensure_files


class TorchvisionMNIST(ImageDataModule):
    """A data set of torchvision's MNIST family with its official split.

    Args:
        dataset: Name of torchvision's class: "FashionMNIST", "MNIST" or "KMNIST".
        root: Data directory; the files lie in `<root>/<dataset>/raw`.
        settings: Arguments of ImageDataModule.
    """

    image_shape = (1, 28, 28)

    def __init__(self, *, dataset: str, root: str, **settings: Any) -> None:
        super().__init__(**settings)
        self.dataset = dataset
        self.root = Path(root).expanduser()
        self.class_names = tuple(getattr(torchvision.datasets, dataset).classes)

    @property
    def source(self) -> str:
        return self.dataset

    def prepare_data(self) -> None:
        ensure_files(self.root / self.dataset / "raw", self.dataset)

    def load_train_images(self) -> ImageSet:
        return read_images(self.root, self.dataset, train=True)

    def load_test_images(self) -> ImageSet:
        return read_images(self.root, self.dataset, train=False)


def read_images(root: Path, dataset: str, train: bool) -> ImageSet:
    """One part of a data set; the jobs of a multirun share one copy for as long as nobody writes to the files."""
    raw = root / dataset / "raw"
    return images_of(root, dataset, train, tuple(stamp(raw / file) for file in FILES))


@lru_cache(maxsize=4)
def images_of(root: Path, dataset: str, train: bool, version: tuple[Stamp | None, ...]) -> ImageSet:
    source = getattr(torchvision.datasets, dataset)(root, train=train)
    images: Tensor = source.data.unsqueeze(1)  # (N, 28, 28) -> (N, 1, 28, 28)
    return ImageSet(images.contiguous(), source.targets.long())
