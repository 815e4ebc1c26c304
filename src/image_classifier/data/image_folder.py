"""One's own pictures, in one folder per class."""

import json
import os
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from image_classifier.data.datamodule import ImageDataModule, stratified_split, tell
from image_classifier.engine.errors import UserError
from image_classifier.engine.images.batches import EpochBatches, ImageSet, InMemoryLoader
from image_classifier.engine.images.memory import free_memory, free_shared_memory
from image_classifier.engine.images.pictures import (
    Background,
    Fit,
    PictureForm,
    class_folders,
    class_name,
    describe_skipped,
    find_pictures,
    picture_keys,
    printable,
    read_picture,
    read_pictures,
)

# Per channel, in units of the full range; the grey ones are those of the weighted sum of the channels.
IMAGENET_MEAN = {3: (0.485, 0.456, 0.406), 1: (0.459,)}
IMAGENET_STD = {3: (0.229, 0.224, 0.225), 1: (0.225,)}

PARTS = ("train", "val", "test")
OTHER_WORDS_FOR_PARTS = ("training", "valid", "validation", "testing")


class PictureFiles(Dataset):
    """Pictures that stay on the disk and are decoded batch by batch.

    Args:
        paths: N files.
        names: What each is called wherever the folder lies: its class, and its path in the class folder.
        labels: (N,) int64.
        form: What to decode them to.
    """

    def __init__(self, paths: Sequence[Path], names: Sequence[str], labels: Tensor, form: PictureForm) -> None:
        self.paths = tuple(paths)
        self.names = tuple(names)
        self.labels = labels
        self.form = form

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return read_picture(self.paths[index], self.form), self.labels[index]

    def __add__(self, other: "PictureFiles") -> "PictureFiles":  # type: ignore[override]
        labels = torch.cat([self.labels, other.labels])
        return PictureFiles(self.paths + other.paths, self.names + other.names, labels, self.form)

    def select(self, indices: Tensor) -> "PictureFiles":
        positions = indices.tolist()
        paths, names = (
            [self.paths[position] for position in positions],
            [self.names[position] for position in positions],
        )
        return PictureFiles(paths, names, self.labels[indices], self.form)

    @property
    def keys(self) -> Tensor:
        """(N,) int64, by which the pictures are known again."""
        return picture_keys(self.paths, self.names)

    @property
    def nbytes(self) -> int:
        """Memory that the decoded pictures would take."""
        return len(self) * self.form.nbytes


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
            generator=torch.Generator(),  # not the global one: a resumed run starts other workers than one that went on
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
        root: Directory of the pictures; `~` is the home directory.
        image_size: Height and width in pixels to which pictures are scaled.
        channels: 1 (grey) or 3 (RGB).
        fit: "crop" scales the shorter side and keeps the centre; "stretch" scales both sides.
        background: What shows through transparent pixels: "white", "black" or "mean" (that of the normalisation).
        class_names: The names of all class folders, in the order that their labels are to have; None for the
            natural order (2 before 10). Of two classes, the second is the positive one.
        test_size: Test pictures: a count, or a fraction below 1. Unused when there is a folder `test`.
        in_memory: Whether all pictures are decoded once and kept; "auto" when they fill less than half of the
            memory that is free.
        num_workers: Processes that decode pictures which are not kept in memory; fewer where shared memory is short.
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
        background: Background = "white",
        class_names: Sequence[str] | None = None,
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
        self.root = Path(root).expanduser()
        self.image_shape = (channels, image_size, image_size)
        self.form = PictureForm.make(self.image_shape, fit, background, self.mean)
        self.class_order = None if class_names is None else [class_name(str(name)) for name in class_names]
        self.test_size = test_size
        self.in_memory = in_memory
        self.num_workers = num_workers
        self.training_state: Mapping[str, Any] | None = None  # of another run, whose network is tested on other data
        self.files: dict[str, PictureFiles] = {}

    def relocate(self, root: str, class_names: Sequence[str], training_state: Mapping[str, Any]) -> None:
        super().relocate(root, class_names, training_state)
        self.class_names = tuple(class_names)
        self.training_state = training_state

    def prepare_data(self) -> None:
        """Find the pictures; nothing is decoded yet."""
        if self.files:
            return
        skipped: Counter[str] = Counter()
        try:
            self.files = self.find_parts(skipped) if self.training_state is None else {"test": self.find_all(skipped)}
        except OSError as error:
            raise UserError(f"expected readable folders in {self.root} but found {error}; check their rights") from None
        count = sum(map(len, self.files.values()))
        told = [f"Pictures: {count} in {self.num_classes} classes in {self.root}", describe_skipped(skipped)]
        tell("; ".join(filter(None, told)))
        if self.training_state is not None:
            self.files["test"] = self.without_known(self.files["test"], self.training_state)

    def find_parts(self, skipped: Counter[str]) -> dict[str, PictureFiles]:
        """The pictures for training, for the test and, where there is such a folder, for validation."""
        folder = self.root / "train" if (self.root / "train").is_dir() else self.root
        self.class_names = ordered(class_folders(folder, Counter()), self.class_order, folder)
        parts = {"train": self.scan(folder, skipped)}
        if empty := missing_classes(parts["train"].labels, self.class_names):
            raise UserError(f"expected pictures in {folder / empty[0]} but found none; add some or remove the folder")
        if folder != self.root:
            parts |= {
                part: self.scan(self.root / part, skipped) for part in ("val", "test") if (self.root / part).is_dir()
            }
            skipped.update(
                f"{path.name} beside train" for path in self.root.iterdir() if path.is_dir() and path.name not in PARTS
            )
        if "test" not in parts:
            train, test = stratified_split(parts["train"].labels, self.test_size, seed=0, setting="data.test_size")
            parts |= {"train": parts["train"].select(train), "test": parts["train"].select(test)}
        self.tell_missing_classes(parts["test"].labels, "test")
        return parts

    def find_all(self, skipped: Counter[str]) -> PictureFiles:
        """All pictures for the test of a network that was trained elsewhere; only those of a folder `test` if any."""
        parts = [part for part in PARTS if part not in self.class_names and (self.root / part).is_dir()]
        folders = [self.root / part for part in (["test"] if "test" in parts else parts)] or [self.root]
        pictures = self.scan(folders[0], skipped)
        for folder in folders[1:]:
            pictures += self.scan(folder, skipped)
        self.tell_missing_classes(pictures.labels, "test")
        return pictures

    def scan(self, folder: Path, skipped: Counter[str]) -> PictureFiles:
        """The pictures of one part, class by class; a class without a folder has none.

        Raises:
            UserError: There is a folder of no class, or there are no pictures at all.
        """
        folders = class_folders(folder, skipped)
        if unknown := [name for name in folders if name not in self.class_names]:
            raise UserError(
                f"expected only folders of the classes {', '.join(self.class_names)} in {folder} as in training "
                f"but found {', '.join(unknown)}; rename or remove them"
            )
        paths: list[Path] = []
        names: list[str] = []
        labels: list[int] = []
        for label, name in enumerate(self.class_names):
            found = find_pictures(folders[name], skipped) if name in folders else []
            paths += found
            names += [f"{name}/{path.relative_to(folders[name]).as_posix()}" for path in found]
            labels += [label] * len(found)
        if not paths:
            raise UserError(
                f"expected pictures of the classes {', '.join(self.class_names)} in {folder} but found none; "
                f"lay them out as {folder}/<class>/<picture>"
            )
        return PictureFiles(paths, names, torch.tensor(labels), self.form)

    def without_known(self, pictures: PictureFiles, training_state: Mapping[str, Any]) -> PictureFiles:
        """The pictures that were used neither in training nor in validation."""
        if "pictures" not in training_state:
            tell("Pictures: the checkpoint does not say which ones it was trained on; all are tested")
            return pictures
        known = torch.isin(pictures.keys, training_state["pictures"])
        if known.all():
            raise UserError(
                f"expected pictures that the network was not trained on in {self.root} but found none; "
                "name others: data.root=DIR"
            )
        if known.any():
            tell(
                f"Pictures: {int(known.sum())} that training and validation used are left out, "
                f"{int((~known).sum())} are tested"
            )
        return pictures.select((~known).nonzero().squeeze(1))

    @property
    def training_files(self) -> PictureFiles:
        """Training pictures, followed by those of the folder `val` if there is one."""
        return self.files["train"] + self.files["val"] if "val" in self.files else self.files["train"]

    def training_labels(self) -> Tensor:
        return self.training_files.labels  # known without decoding a picture

    def load_train_images(self) -> ImageSet:
        return self.decoded(self.training_files)

    def load_test_images(self) -> ImageSet:
        return self.decoded(self.files["test"])

    def decoded(self, pictures: PictureFiles) -> Any:
        """The pictures as an ImageSet if they are to be kept in memory, else as they are."""
        needed = sum(part.nbytes for part in self.files.values()) * self.processes
        if self.in_memory is True or (self.in_memory == "auto" and needed < free_memory() / 2):
            return ImageSet(read_pictures(pictures.paths, self.form), pictures.labels)
        self.num_workers = self.workers_that_fit(free_shared_memory())
        return pictures

    @property
    def processes(self) -> int:
        """Training processes on this machine, each with memory of its own."""
        return self.trainer.num_devices if self.trainer else 1

    def workers_that_fit(self, shared_memory: int | None) -> int:
        """As many of the `num_workers` as can hand over their batches; one more would end in a bus error.

        Args:
            shared_memory: Free bytes; None for no limit.
        """
        # A training and a validation loader at once, each with two batches a worker and two on their way.
        batch = (self.batch_size + self.eval_batch_size) * self.form.nbytes * self.processes
        workers = self.num_workers
        while shared_memory is not None and workers and (2 * workers + 2) * batch > shared_memory:
            workers -= 1
        if shared_memory is not None and workers < self.num_workers:
            tell(
                f"Workers: {workers} instead of {self.num_workers}, because the batches of more do not fit into the "
                f"shared memory ({shared_memory / 2**20:.0f} MiB are free in /dev/shm); in Docker: --shm-size=2g"
            )
        return workers

    def split(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        if "val" in self.files:
            indices = torch.arange(len(labels))
            return indices[: len(self.files["train"])], indices[len(self.files["train"]) :]
        return super().split(labels)

    def setup(self, stage: str) -> None:
        first = self.train_images is None
        super().setup(stage)
        if first and self.train_images is not None:
            self.tell_missing_classes(self.training_labels()[self.train_indices], "training")
            self.tell_missing_classes(self.training_labels()[self.val_indices], "validation")

    def tell_missing_classes(self, labels: Tensor, part: str) -> None:
        if missing := missing_classes(labels, self.class_names):
            tell(f"Pictures: none of {', '.join(missing)} for {part} in {self.root}")

    def identify(self) -> dict[str, Any]:
        return super().identify() | {"pictures": self.training_files.keys}

    def image_sample(self) -> Tensor:
        return self.training_files.keys

    def place(self, data: Any) -> Any:
        return data if isinstance(data, PictureFiles) else super().place(data)

    def sample_names(self, stage: Literal["train", "val", "test"]) -> Sequence[str]:
        pictures = self.files["test"] if stage == "test" else self.training_files
        return [printable(path) for path in pictures.paths]

    def stored_images(self, stage: Literal["train", "val", "test"], indices: Tensor) -> Tensor:
        pictures = self.test_images if stage == "test" else self.train_images
        if not isinstance(pictures, PictureFiles):
            return super().stored_images(stage, indices)
        paths = pictures.select(indices).paths
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes outside Python's lock
            return torch.stack(list(pool.map(lambda path: read_picture(path, self.form), paths)))

    def first_training_images(self, count: int) -> ImageSet:
        if not isinstance(self.train_images, PictureFiles):
            return super().first_training_images(count)
        first = self.train_images.select(self.served_order("train")[:count])
        return ImageSet(torch.stack([read_picture(path, self.form) for path in first.paths]), first.labels)

    def loader(self, data: Any, indices: Tensor, batch_size: int, *, shuffle: bool) -> InMemoryLoader | DataLoader:
        if not isinstance(data, PictureFiles):
            return super().loader(data, indices, batch_size, shuffle=shuffle)
        return FileLoader(data, self.batches(indices, batch_size, shuffle=shuffle), self.num_workers)


def ordered(found: Mapping[str, Path], wanted: Sequence[str] | None, folder: Path) -> tuple[str, ...]:
    """The class names in the wanted order, or else in that of the folders.

    Raises:
        UserError: There are fewer than two, they are parts of the data, or other ones are wanted.
    """
    names = tuple(found)
    if len(names) < 2:
        raise UserError(
            f"expected a folder for each of two or more classes in {folder} but found "
            f"{f'only {names[0]}' if names else 'none'}; lay the pictures out as {folder}/<class>/<picture>"
        )
    if {name.lower() for name in names} <= {*PARTS, *OTHER_WORDS_FOR_PARTS}:
        raise UserError(
            f"expected a folder for each class in {folder} but found {', '.join(names)}; "
            f"the parts of the data are called {', '.join(PARTS)}"
        )
    if wanted is None:
        return names
    if sorted(wanted) != sorted(names):
        raise UserError(
            f"expected data.class_names to name each class folder in {folder} once but found {', '.join(wanted)}; "
            f"for example {shlex.quote(f'data.class_names={json.dumps(names, ensure_ascii=False)}')}"
        )
    return tuple(wanted)


def missing_classes(labels: Tensor, class_names: Sequence[str]) -> list[str]:
    counts = torch.bincount(labels, minlength=len(class_names)).tolist()
    return [name for name, count in zip(class_names, counts, strict=True) if not count]
