"""One's own pictures, in one folder per class."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from image_classifier.data.batches import EpochBatches, ImageSet, InMemoryLoader
from image_classifier.data.datamodule import ImageDataModule, stratified_split
from image_classifier.data.pictures import Fit, PictureForm, find_pictures, read_picture, read_pictures
from image_classifier.errors import UserError

# Per channel, in units of the full range; the grey ones are those of the weighted sum of the channels.
IMAGENET_MEAN = {3: (0.485, 0.456, 0.406), 1: (0.459,)}
IMAGENET_STD = {3: (0.229, 0.224, 0.225), 1: (0.225,)}


class PictureFiles(Dataset):
    """Pictures that stay on the disk and are decoded batch by batch.

    Args:
        paths: N files.
        labels: (N,) int64.
        form: What to decode them to.
    """

    def __init__(self, paths: Sequence[Path], labels: Tensor, form: PictureForm) -> None:
        self.paths = tuple(paths)
        self.labels = labels
        self.form = form

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return read_picture(self.paths[index], self.form), self.labels[index]

    def select(self, indices: Tensor) -> "PictureFiles":
        return PictureFiles([self.paths[index] for index in indices.tolist()], self.labels[indices], self.form)

    @property
    def nbytes(self) -> int:
        """Memory that the decoded pictures would take."""
        return len(self) * self.form.channels * self.form.height * self.form.width


class FileLoader(DataLoader):
    """Decodes batches in worker processes; sized, and restored inside an epoch like InMemoryLoader.

    Args:
        pictures: The pictures.
        batches: The index tensors to serve.
        num_workers: Worker processes; 0 decodes in the training process.
    """

    batch_sampler: Any  # EpochBatches

    def __init__(self, pictures: PictureFiles, batches: EpochBatches, num_workers: int) -> None:
        self.batches_served = 0
        super().__init__(
            pictures,
            batch_sampler=batches,  # type: ignore[arg-type]  # index tensors do as well as lists
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        self.batches_served = self.batch_sampler.first_batch
        try:
            for batch in super().__iter__():
                self.batches_served += 1  # before the yield: nothing after the last one is ever run
                yield batch
        except UserError as error:  # from a worker it comes with the worker's traceback
            raise UserError(str(error).rpartition("UserError: ")[2].strip()) from None

    def state_dict(self) -> dict[str, Any]:
        return {"batches_served": self.batches_served}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.batch_sampler.first_batch = state["batches_served"] % len(self)


class ImageFolder(ImageDataModule):
    """Pictures in one folder per class; the folders' names are the class names.

    `<root>/train/<class>/*` with or without `<root>/val` and `<root>/test`, or just `<root>/<class>/*`. A part
    without a folder of its own is a stratified share of the training pictures: `val_size` of them, chosen by
    `seed`, and `test_size`, the same ones whatever the seed.

    Args:
        root: Directory of the pictures.
        image_size: Height and width in pixels to which pictures are scaled.
        channels: 1 (grey) or 3 (RGB).
        fit: "crop" scales the shorter side and keeps the centre; "stretch" scales both sides.
        test_size: Test pictures: a count, or a fraction below 1. Unused when there is a folder `test`.
        in_memory: Whether all pictures are decoded once and kept; "auto" when they fill less than half of the
            memory that is free.
        num_workers: Processes that decode pictures which are not kept in memory.
        mean: As in ImageDataModule; None for ImageNet's, which pretrained networks expect.
        std: The same.
        settings: Arguments of ImageDataModule.
    """

    train_images: Any  # ImageSet or, when not in memory, PictureFiles
    test_images: Any

    def __init__(
        self,
        *,
        root: str,
        image_size: int = 64,
        channels: Literal[1, 3] = 3,
        fit: Fit = "crop",
        test_size: int | float = 0.2,
        in_memory: bool | Literal["auto"] = "auto",
        num_workers: int = 2,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        **settings: Any,
    ) -> None:
        if channels not in IMAGENET_MEAN:
            raise UserError(f"expected data.channels to be 1 (grey) or 3 (RGB) but found {channels}")
        super().__init__(mean=mean or IMAGENET_MEAN[channels], std=std or IMAGENET_STD[channels], **settings)
        self.root = Path(root)
        self.image_shape = (channels, image_size, image_size)
        self.form = PictureForm(*self.image_shape, fit)
        self.test_size = test_size
        self.in_memory = in_memory
        self.num_workers = num_workers
        self.files: dict[str, PictureFiles] = {}

    def prepare_data(self) -> None:
        """Find the pictures; nothing is decoded yet."""
        if self.files:
            return
        training_folder = self.root / "train" if (self.root / "train").is_dir() else self.root
        self.class_names = class_folders(training_folder)
        parts = {"train": self.scan(training_folder)}
        if training_folder != self.root:
            parts |= {part: self.scan(self.root / part) for part in ("val", "test") if (self.root / part).is_dir()}
        if "test" not in parts:
            train, test = stratified_split(parts["train"].labels, self.test_size, seed=0, setting="data.test_size")
            parts |= {"train": parts["train"].select(train), "test": parts["train"].select(test)}
        self.files = parts

    def scan(self, folder: Path) -> PictureFiles:
        """The pictures of one part."""
        if (found := class_folders(folder)) != self.class_names:
            raise UserError(
                f"expected the class folders {', '.join(self.class_names)} in {folder} as in training "
                f"but found {', '.join(found)}"
            )
        paths: list[Path] = []
        labels: list[int] = []
        for label, name in enumerate(self.class_names):
            pictures = find_pictures(folder / name)
            if not pictures:
                raise UserError(f"expected pictures in {folder / name} but found none; add some or remove the folder")
            paths += pictures
            labels += [label] * len(pictures)
        return PictureFiles(paths, torch.tensor(labels), self.form)

    def load_train_images(self) -> ImageSet:
        """Training pictures, followed by those of the folder `val` if there is one."""
        train, val = self.files["train"], self.files.get("val")
        if val is not None:
            train = PictureFiles(train.paths + val.paths, torch.cat([train.labels, val.labels]), self.form)
        return self.decoded(train)

    def load_test_images(self) -> ImageSet:
        return self.decoded(self.files["test"])

    def decoded(self, pictures: PictureFiles) -> Any:
        """The pictures as an ImageSet if they are to be kept in memory, else as they are."""
        needed = sum(part.nbytes for part in self.files.values())
        processes = self.trainer.num_devices if self.trainer else 1  # on this machine, each with a copy
        if self.in_memory is True or (self.in_memory == "auto" and needed * processes < free_memory() / 2):
            return ImageSet(read_pictures(pictures.paths, self.form), pictures.labels)
        return pictures

    def split(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        if "val" not in self.files:
            return super().split(labels)
        indices = torch.arange(len(labels))
        return indices[: len(self.files["train"])], indices[len(self.files["train"]) :]

    def place(self, data: Any) -> Any:
        return data if isinstance(data, PictureFiles) else super().place(data)

    def first_training_images(self, count: int) -> ImageSet:
        if not isinstance(self.train_images, PictureFiles):
            return super().first_training_images(count)
        first = self.train_images.select(self.train_indices[:count])
        return ImageSet(torch.stack([read_picture(path, self.form) for path in first.paths]), first.labels)

    def loader(self, data: Any, indices: Tensor, batch_size: int, *, shuffle: bool) -> InMemoryLoader | DataLoader:
        if not isinstance(data, PictureFiles):
            return super().loader(data, indices, batch_size, shuffle=shuffle)
        return FileLoader(data, self.batches(indices, batch_size, shuffle=shuffle), self.num_workers)


def class_folders(folder: Path) -> tuple[str, ...]:
    """Names of the class folders, sorted.

    Raises:
        UserError: There are fewer than two.
    """
    if not folder.is_dir():
        raise UserError(f"expected a directory of pictures but found none at {folder}; name it: data.root=DIR")
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(names) < 2:
        raise UserError(
            f"expected a folder for each of two or more classes in {folder} but found "
            f"{f'only {names[0]}' if names else 'none'}; lay the pictures out as {folder}/<class>/<picture>"
        )
    return tuple(names)


def free_memory() -> int:
    """Bytes of memory that can be had without swapping (where only the total is known: half of it)."""
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        lines = dict(line.split(":") for line in meminfo.read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
