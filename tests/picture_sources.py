"""The same pictures as a folder, a CSV file, a torch Dataset and a data set of Hugging Face."""

import csv
import json
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

CLASSES = ("blue", "green", "red")


def pictures(count: int, seed: int = 0) -> list[tuple[Image.Image, str]]:
    """`count` noisy pictures of each class, whose colour tells it."""
    random = np.random.default_rng(seed)
    found = []
    for label, name in enumerate(CLASSES):
        for _ in range(count):
            pixels = random.integers(90, size=(12, 12, 3), dtype=np.uint8)
            pixels[..., 2 - label] += 150
            found.append((Image.fromarray(pixels), name))
    return found


def write_folder(root: Path, count: int, seed: int = 0) -> Path:
    """`<root>/<class>/*.png`."""
    for index, (image, name) in enumerate(pictures(count, seed)):
        (root / name).mkdir(parents=True, exist_ok=True)
        image.save(root / name / f"{index:03}.png")
    return root


def write_noise(root: Path, height: int, width: int) -> Path:
    """40 pictures of noise in each of the folders a to d."""
    random = np.random.default_rng(1)
    for number in range(160):
        path = root / "abcd"[number % 4] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(random.integers(256, size=(height, width, 3), dtype=np.uint8)).save(path)
    return root


def write_csv(file: Path, folder: Path, **columns: str) -> Path:
    """A row for each picture of a folder, with paths from there, and further columns of one value."""
    with file.open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["path", "label", *columns])
        for path in sorted(folder.rglob("*.png")):
            table.writerow([path.relative_to(folder).as_posix(), path.parent.name, *columns.values()])
    return file


def write_shards(root: Path, folder: Path, shards: int = 3, label: str = "cls") -> Path:
    """The pictures of a folder dealt to `<root>/<number>.tar`, each beside its label."""
    root.mkdir(parents=True, exist_ok=True)
    paths = sorted(folder.rglob("*.png"))
    for number in range(shards):
        with tarfile.open(root / f"{number:03}.tar", "w") as file:
            for index, path in list(enumerate(paths))[number::shards]:
                text = path.parent.name if label == "cls" else json.dumps({"label": path.parent.name})
                for suffix, content in (("png", path.read_bytes()), (label, text.encode())):
                    member = tarfile.TarInfo(f"{index:05}.{suffix}")
                    member.size = len(content)
                    file.addfile(member, BytesIO(content))
    return root


class Pairs(Dataset):
    """Pictures and labels in memory, in one of the forms that Datasets have.

    Args:
        count: Pictures of each class.
        seed: Of their pixels.
        form: "image", "array", "tensor" or "float".
        told: Whether the labels and the classes are attributes.
    """

    def __init__(self, count: int, seed: int = 0, form: str = "image", told: bool = True) -> None:
        self.pairs = [(image, CLASSES.index(name)) for image, name in pictures(count, seed)]
        self.form = form
        if told:
            self.targets = [label for _, label in self.pairs]
            self.classes = list(CLASSES)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        from torchvision.transforms.v2 import functional as F

        image, label = self.pairs[index]
        if self.form == "array":
            return np.array(image), label
        if self.form == "tensor":
            return F.pil_to_tensor(image), label
        if self.form == "float":
            return F.to_dtype(F.pil_to_tensor(image), scale=True), label
        return image, label


def table_of(count: int, seed: int = 0, kind: str = "class label") -> Any:
    """A table of Hugging Face with the columns `image` and `label`."""
    import datasets

    found = pictures(count, seed)
    label = datasets.ClassLabel(names=list(CLASSES)) if kind == "class label" else datasets.Value("string")
    features = datasets.Features({"image": datasets.Image(), "label": label})
    columns = {"image": [image for image, _ in found], "label": [name for _, name in found]}
    return datasets.Dataset.from_dict(columns, features=features)


def write_parquet(root: Path, sizes: dict[str, int], kind: str = "class label") -> Path:
    """`<root>/data/<split>.parquet` for each split."""
    (root / "data").mkdir(parents=True)
    for seed, (split, count) in enumerate(sizes.items()):
        table_of(count, seed, kind).to_parquet(str(root / "data" / f"{split}.parquet"))
    return root
