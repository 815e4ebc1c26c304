"""The real Fashion-MNIST, from the project's data directory; it is fetched there when it is absent."""

import math
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from image_classifier.data.fashion_mnist import TorchvisionMNIST
from image_classifier.engine.images.sources import FASHION_MNIST_SHA256, sha256
from image_classifier.engine.launch.objects import make


@pytest.fixture
def datamodule(compose_config: Callable[..., Any]) -> Any:
    made = make(compose_config("data=fashion_mnist").data)
    made.prepare_data()
    made.setup("fit")
    made.setup("test")
    return made


def test_official_split_is_kept(datamodule: Any) -> None:
    raw = datamodule.root / "FashionMNIST" / "raw"
    assert {file: sha256(raw / file) for file in FASHION_MNIST_SHA256} == FASHION_MNIST_SHA256
    images, labels = datamodule.train_images
    assert images.shape == (60_000, 1, 28, 28) and images.dtype == torch.uint8
    assert torch.bincount(labels).tolist() == [6000] * 10
    assert torch.bincount(labels[datamodule.train_indices]).tolist() == [5500] * 10
    assert torch.bincount(labels[datamodule.val_indices]).tolist() == [500] * 10
    assert torch.equal(
        torch.cat([datamodule.train_indices, datamodule.val_indices]).sort().values, torch.arange(60_000)
    )
    assert images[0, 0, 14].tolist()[10:14] == read_row(raw / "train-images-idx3-ubyte", 14)[10:14]
    test_images, test_labels = datamodule.test_images
    assert test_images.shape == (10_000, 1, 28, 28)
    assert torch.bincount(test_labels).tolist() == [1000] * 10
    served = [labels for _, labels in datamodule.test_dataloader()]
    assert torch.equal(torch.cat(served), test_labels[datamodule.served_order("test")])
    share = torch.bincount(images.flatten()).double() / images.numel()
    values = torch.arange(256) / 255
    mean = float((share * values).sum())
    assert datamodule.mean == pytest.approx([mean], abs=5e-5)
    assert datamodule.std == pytest.approx([float((share * (values - mean) ** 2).sum() ** 0.5)], abs=5e-5)
    assert datamodule.class_names[0] == "T-shirt/top" and datamodule.class_names[9] == "Ankle boot"


def test_fingerprint_is_cheap(datamodule: Any) -> None:
    seconds = []
    for _ in range(5):
        start = time.process_time()
        datamodule.identify()
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.05


def test_home_and_another_directory(tmp_path: Path) -> None:
    settings = {"dataset": "MNIST", "batch_size": 1, "val_size": 1, "mean": [0.5], "std": [0.5]}
    datamodule = TorchvisionMNIST(root="~/data", **settings)
    assert datamodule.root == Path.home() / "data"
    datamodule.relocate(str(tmp_path), datamodule.class_names, {})
    assert datamodule.root == tmp_path


@pytest.mark.parametrize("dataset", ["MNIST", "KMNIST"])  # whose files have no checksum here
@pytest.mark.parametrize("how", ["another file", "in place"])
def test_files_are_read_once_until_they_are_replaced(tmp_path: Path, dataset: str, how: str) -> None:
    raw, settings = tmp_path / dataset / "raw", {"batch_size": 1, "val_size": 2, "mean": [0.5], "std": [0.5]}
    raw.mkdir(parents=True)

    def write(value: int) -> None:
        for part in ("train", "t10k"):
            for kind, shape in (("images-idx3", (20, 28, 28)), ("labels-idx1", (20,))):
                header = bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape)
                path = raw / f"{part}-{kind}-ubyte"
                new = path.with_suffix(".new") if how == "another file" else path
                new.write_bytes(header + bytes([value]) * math.prod(shape))
                new.replace(path)

    def read() -> list[torch.Tensor]:
        made = TorchvisionMNIST(dataset=dataset, root=str(tmp_path), **settings)
        made.prepare_data()
        return [*made.load_train_images(), *made.load_test_images()]

    write(1)
    first = read()
    assert all(part is same for part, same in zip(read(), first, strict=True))
    write(2)
    assert [int(part.max()) for part in first] == [1] * 4 and [int(part.min()) for part in read()] == [2] * 4


def read_row(path: Any, row: int) -> list[int]:
    """A row of the first image, straight from the file: 16 bytes of header, then 28 bytes a row."""
    return list(path.read_bytes()[16 + 28 * row :][:28])
