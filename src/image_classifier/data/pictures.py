"""What all data sets of pictures share: decoding, a split in three parts, in memory or batch by batch from the disk."""

import ctypes
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from image_classifier.data.datamodule import ImageDataModule
from image_classifier.engine.errors import UserError
from image_classifier.engine.images.batches import EpochBatches, ImageSet, InMemoryLoader
from image_classifier.engine.images.cache import describe_kept, read_cached
from image_classifier.engine.images.memory import free_memory, free_shared_memory
from image_classifier.engine.images.picture_sets import PictureFiles, Pictures, Reading, former_keys, named_keys
from image_classifier.engine.images.pictures import Background, Fit, PictureForm, describe_skipped, height_and_width
from image_classifier.engine.images.reading import (
    all_grey,
    bad_pictures,
    check_together,
    content_digests,
    gathered,
    measure,
    read_pictures,
)
from image_classifier.engine.images.splits import stratified_split
from image_classifier.engine.images.summary import DataSummary, class_counts, left_out, sizes_and_modes, tell
from image_classifier.engine.terminal import shell_quoted

# Per channel, in units of the full range; the grey ones are those of the weighted sum of the channels.
IMAGENET_MEAN = {3: (0.485, 0.456, 0.406), 1: (0.459,)}
IMAGENET_STD = {3: (0.229, 0.224, 0.225), 1: (0.225,)}


PR_SET_PDEATHSIG = 1  # of <linux/prctl.h>


class FileLoader(DataLoader):
    """Decodes batches in worker processes; sized, and restored inside an epoch like InMemoryLoader.

    Args:
        pictures: The pictures.
        batches: The index tensors to serve.
        num_workers: Worker processes; 0 decodes in the training process.
    """

    batch_sampler: Any  # EpochBatches

    def __init__(self, pictures: Pictures, batches: EpochBatches, num_workers: int) -> None:
        self.batches_served = 0
        super().__init__(
            pictures,
            batch_sampler=batches,  # type: ignore[arg-type]  # index tensors do as well as lists
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=partial(end_with_parent, os.getpid()),
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
        return {"batches_served": self.batch_sampler.next_after(self.batches_served)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.batch_sampler.first_batch = self.batch_sampler.next_after(state["batches_served"])


def end_with_parent(parent: int, worker: int) -> None:
    """Have a worker process end with the one that made the loader, even if that was killed before the worker began.

    torch's own look for it compares with the parent that the worker has when it begins, and would then wait for ever.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


class PictureDataModule(ImageDataModule):
    """Pictures of any size and mode, brought to one form. Subclasses say where they are.

    A subclass sets `class_names` and returns the pictures of each part from `find_parts`; where a network can be
    tested on other data, from `find_all` too.

    Args:
        image_size: Height and width in pixels to which pictures are scaled: one number, or the two.
        channels: 1 (grey), 3 (RGB), or "auto": grey where no training picture has colours.
        fit: "crop" scales the shorter side and keeps the centre; "pad" scales the longer side and fills the rest with
            the background; "stretch" scales both sides.
        background: What shows through transparent pixels: "white", "black" or "mean" (that of the normalisation).
        class_names: All class names in the order that their labels are to have; None for the natural order (2 before
            10). Of two classes, the second is the positive one.
        test_size: Test pictures where the data has no such part: a count, or a fraction below 1.
        on_error: What follows from pictures that cannot be decoded: "raise" an error that names them all, before the
            training; or "skip" them, which is told.
        in_memory: Whether all pictures are decoded once and kept; "auto" when they fill less than half of the
            memory that is free.
        cache: Directory in which decoded pictures are kept for later runs, known again by their contents; all training
            processes read them from there, whether they would fit in memory or not. None for no such directory.
        num_workers: Processes that decode pictures which are not kept in memory; fewer where shared memory is short.
        mean: As in ImageDataModule; None for ImageNet's, which pretrained networks expect; "auto" to measure it from
            training pictures.
        std: The same.
        settings: Arguments of ImageDataModule.
    """

    train_images: Any  # ImageSet or, when not in memory, Pictures
    test_images: Any

    def __init__(
        self,
        *,
        image_size: int | Sequence[int] = 64,
        channels: Literal[1, 3, "auto"] = 3,
        fit: Fit = "crop",
        background: Background = "white",
        class_names: Sequence[str | int] | None = None,
        test_size: int | float = 0.2,
        on_error: Literal["raise", "skip"] = "raise",
        in_memory: bool | Literal["auto"] = "auto",
        cache: str | None = None,
        num_workers: int = 2,
        mean: Sequence[float] | Literal["auto"] | None = None,
        std: Sequence[float] | Literal["auto"] | None = None,
        **settings: Any,
    ) -> None:
        if channels not in (*IMAGENET_MEAN, "auto"):
            raise UserError(f"expected data.channels to be 1 (grey), 3 (RGB) or auto but found {channels}")
        super().__init__(mean=(), std=(), **settings)
        self.image_size = height_and_width(image_size)
        self.channels = channels
        self.fit = fit
        self.background = background
        self.wanted = {"mean": mean, "std": std}
        self.wanted_names = None if class_names is None else [str(name) for name in class_names]
        self.test_size = test_size
        self.on_error = on_error
        self.in_memory = in_memory
        self.cache = None if cache is None else Path(cache).expanduser()
        self.num_workers = num_workers
        self.training_state: Mapping[str, Any] | None = None  # of another run, whose network is tested on other data
        self.files: dict[str, Pictures] = {}  # as found: train, test and, where it is a part of its own, val
        self.skipped: Counter[str] = Counter()
        self.readings: dict[str, Reading] = {}  # of training and validation together: train; and of the test
        self.unreadable: list[dict[str, str]] = []
        self.keeps: bool | None = None  # all pictures in memory; None before the first are read
        self.normalised_from = "given"
        self.takes_test = False  # a share of the pictures for training
        if channels != "auto" and "auto" not in (mean, std):
            self.settle_form(None)

    def find_parts(self, skipped: Counter[str]) -> dict[str, Pictures]:
        """The pictures for training, and those of the parts "val" and "test" as far as the data has them.

        Args:
            skipped: Counts what is left out, by reason.
        """
        raise NotImplementedError

    def find_all(self, skipped: Counter[str]) -> Pictures:
        """All pictures for the test of a network that was trained elsewhere."""
        raise NotImplementedError

    @property
    def place_found(self) -> Any:
        """Where the pictures lie, for messages."""
        return getattr(self, "root", type(self).__name__)

    @property
    def source(self) -> str:
        return str(self.place_found)

    def relocate(self, root: str, class_names: Sequence[str], training_state: Mapping[str, Any]) -> None:
        super().relocate(root, class_names, training_state)
        self.class_names = tuple(class_names)
        self.training_state = training_state

    def prepare_data(self) -> None:
        """Find the pictures, and settle what is left to them; nothing is kept yet."""
        if self.files:
            return
        try:
            if self.training_state is None:
                self.files = self.with_test(self.find_parts(self.skipped))
            else:
                self.files = {"test": self.find_all(self.skipped)}
        except OSError as error:
            raise UserError(
                f"expected readable folders in {self.place_found} but found {error}; check their rights"
            ) from None
        self.tell_missing_classes(self.files["test"].labels, "test")
        count = sum(map(len, self.files.values()))
        found = f"Pictures: {count} in {self.num_classes} classes in {self.place_found}"
        tell("; ".join(filter(None, [found, describe_skipped(self.skipped)])))
        if self.training_state is not None:
            self.files["test"] = self.without_known(self.files["test"], self.training_state)
        self.settle_form(self.files)

    def with_test(self, parts: dict[str, Pictures]) -> dict[str, Pictures]:
        """The parts; without test pictures, `test_size` of those for training are taken, the same ones at any seed."""
        self.takes_test = "test" not in parts
        if not self.takes_test:
            return parts
        train, test = stratified_split(parts["train"].labels, self.test_size, seed=0, setting="data.test_size")
        return parts | {"train": parts["train"].select(train), "test": parts["train"].select(test)}

    def settle_form(self, files: Mapping[str, Pictures] | None) -> None:
        """Find the channels and the normalisation where they are "auto", and with them the form of the pictures.

        Args:
            files: The parts of the data; None where nothing is "auto".
        """
        if not hasattr(self, "form"):
            training = None if files is None else self.found_training(files)
            channels = self.channels
            if channels == "auto":
                channels = 1 if all_grey(training) else 3
            self.image_shape = (channels, *self.image_size)
            self.settle_normalisation(training)
            self.form = PictureForm.make(self.image_shape, self.fit, self.background, self.mean)
        for pictures in (files or {}).values():
            pictures.form = self.form

    def found_training(self, files: Mapping[str, Pictures]) -> Pictures:
        """The pictures that are trained on, without those held out for validation."""
        if "train" not in files:  # a test of a network from elsewhere, whose checkpoint tells; else these will do
            return files["test"]
        return files["train"] if "val" in files else files["train"].select(self.split_found(files["train"].labels)[0])

    def settle_normalisation(self, training: Pictures | None) -> None:
        channels = self.image_shape[0]
        known = {"mean": IMAGENET_MEAN[channels], "std": IMAGENET_STD[channels]}
        self.normalised_from = "given" if any(self.wanted.values()) else "ImageNet's"
        if "auto" in self.wanted.values():
            assert training is not None
            self.normalised_from = "measured from training pictures"
            measured = known
            # What shows through transparent pixels may be the mean: first guessed, then measured.
            for _ in range(2 if self.background == "mean" else 1):
                form = PictureForm.make(self.image_shape, self.fit, self.background, measured["mean"])
                measured = dict(zip(("mean", "std"), measure(training, form), strict=True))
        for name, wanted in self.wanted.items():
            values = measured[name] if wanted == "auto" else known[name] if wanted is None else tuple(wanted)
            if len(values) != channels:
                raise UserError(
                    f"expected data.{name} to have {channels} numbers, one a channel, but found {list(values)}; "
                    f"for example data.{name}=auto"
                )
            setattr(self, name, values)

    def without_known(self, pictures: Pictures, training_state: Mapping[str, Any]) -> Pictures:
        """The pictures that were used neither in training nor in validation."""
        known = self.known_among(pictures, training_state)
        if known is None:
            tell("Pictures: the checkpoint does not say which ones it was trained on; all are tested")
            return pictures
        if known.all():
            raise UserError(
                f"expected pictures that the network was not trained on in {self.place_found} but found none; "
                "name others: data.root=DIR"
            )
        if known.any():
            tell(
                f"Pictures: {int(known.sum())} that training and validation used are left out, "
                f"{int((~known).sum())} are tested"
            )
        return pictures.select((~known).nonzero().squeeze(1))

    def known_among(self, pictures: Pictures, training_state: Mapping[str, Any]) -> Tensor | None:
        """(N,) bool: which pictures were used in training or validation; None where the checkpoint does not say.

        Known again by content, in whatever folder and by whatever name. One that the run itself tested is still tested,
        even where another like it was trained on, so that the same data give the same result.
        """
        if "contents" in training_state and pictures.names is not None:
            digests = content_digests(pictures)
            tested = torch.isin(named_keys(pictures.names, digests), training_state["tested"])
            return torch.isin(signed(digests), training_state["contents"]) & ~tested
        if "pictures" in training_state and isinstance(pictures, PictureFiles):
            tell(
                "Pictures: the checkpoint is of an earlier version; what it was trained on is known by name, size and "
                "a part of the content, so that files with other names are tested"
            )
            return torch.isin(former_keys(pictures), training_state["pictures"])
        return None

    @property
    def training_files(self) -> Pictures:
        """Training pictures, followed by those of the part "val" if the data has one."""
        return self.files["train"] + self.files["val"] if "val" in self.files else self.files["train"]

    def training_labels(self) -> Tensor:
        labels = self.training_files.labels  # known without decoding a picture
        return labels[self.readings["train"].good] if "train" in self.readings else labels

    def class_counts(self) -> Tensor:
        if self.on_error == "skip" and "train" not in self.readings:
            self.read({"train": self.training_files})  # those that cannot be decoded are not trained on
        return super().class_counts()

    def split_found(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The split of all `training_files`, whether they can be decoded or not."""
        if "val" in self.files and self.folds is not None:
            raise UserError(
                f"expected no part for validation in {self.place_found}, because data.folds={self.folds} splits the "
                "training pictures, but found one; move its pictures to those for training"
            )
        if "val" in self.files:
            indices = torch.arange(len(labels))
            return indices[: len(self.files["train"])], indices[len(self.files["train"]) :]
        return super().split(labels)

    def split(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        if "train" not in self.readings:
            return self.split_found(labels)
        good = self.readings["train"].good
        position = good.cumsum(0) - 1  # among those that can be decoded
        train, val = (position[part[good[part]]] for part in self.split_found(self.training_files.labels))
        for part, words in ((train, "training"), (val, "validation")):
            if not len(part):
                raise UserError(f"expected pictures for {words} in {self.place_found} but none can be decoded")
        return train, val

    def tell_missing_classes(self, labels: Tensor, part: str) -> None:
        if missing := missing_classes(labels, self.class_names):
            tell(f"Pictures: none of {', '.join(missing)} for {part} in {self.place_found}")

    def setup(self, stage: Literal["fit", "validate", "test", "predict"] | str) -> None:
        first = self.train_images is None
        if stage in ("fit", "validate"):
            # Those of the test too, lest it fails after the training.
            self.read({"train": self.training_files, "test": self.files["test"]})
        elif stage == "test":
            self.read({"test": self.files["test"]})
        super().setup(stage)
        if first and self.train_images is not None:
            self.tell_missing_classes(self.training_labels()[self.train_indices], "training")
            self.tell_missing_classes(self.training_labels()[self.val_indices], "validation")

    def read(self, parts: Mapping[str, Pictures]) -> None:
        """Decode pictures or, where they are not to be kept in memory, find out whether they can be decoded.

        Raises:
            UserError: Some cannot, and `on_error` is "raise".
        """
        parts = {part: pictures for part, pictures in parts.items() if part not in self.readings}
        if self.keeps is None:
            # One answer for all processes, which check the pictures together.
            self.keeps = all(gathered(self.fit_in_memory()))
            if not self.keeps and self.cache is None:
                self.num_workers = self.workers_that_fit(free_shared_memory())
        for part, pictures in parts.items():
            self.readings[part] = self.read_part(pictures)
        bad = [
            {"picture": self.called(pictures, index), "reason": reason}
            for part, pictures in parts.items()
            for index, reason in self.readings[part].errors.items()
        ]
        named = [f"{picture['picture']} ({picture['reason']})" for picture in bad]
        if bad and self.on_error == "raise":
            self.readings.clear()
            raise bad_pictures(named, self.place_found)
        if bad:
            tell(f"Pictures: {left_out(named)}")
        self.unreadable += bad

    def read_part(self, pictures: Pictures) -> Reading:
        if self.cache is not None:
            reading, decoded = read_cached(pictures, self.form, self.cache)
            decoded = max(gathered(decoded))  # by one of the training processes
            known = f"{decoded} decoded, {len(pictures) - decoded} of before"
            tell(f"Pictures: {known}, in {self.cache}, which holds {describe_kept(self.cache)}")
            return reading
        return read_pictures(pictures, self.form) if self.keeps else check_together(pictures)

    def fit_in_memory(self) -> bool:
        needed = sum(map(len, self.files.values())) * self.form.nbytes * self.processes
        return self.in_memory is True or (self.in_memory == "auto" and needed < free_memory() / 2)

    def called(self, pictures: Pictures, index: int) -> str:
        """What a picture is called in messages: within the directory of the pictures."""
        return pictures.describe(index).removeprefix(f"{self.place_found}/")

    def load_train_images(self) -> Any:
        return self.served(self.training_files, self.readings["train"])

    def load_test_images(self) -> Any:
        return self.served(self.files["test"], self.readings["test"])

    def served(self, pictures: Pictures, reading: Reading) -> Any:
        """Those pictures that can be decoded: an ImageSet if they are kept in memory, else Pictures."""
        good = reading.good
        if reading.images is None:
            return pictures.select(good.nonzero().squeeze(1))
        return ImageSet(reading.images, pictures.labels[good])

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

    def identify(self) -> dict[str, Any]:
        test, found = self.files["test"], self.readings["test"]
        if self.training_files.names is None or test.names is None:
            return super().identify()
        tested = named_keys(test.names, found.digests)[found.good]
        return super().identify() | {"contents": self.image_sample(), "tested": tested}

    def image_sample(self) -> Tensor:
        reading = self.readings["train"]
        return signed(reading.digests)[reading.good]

    def fingerprint_like(self, state_dict: dict[str, Any]) -> str:
        files = self.training_files
        if "pictures" in state_dict and isinstance(files, PictureFiles):  # of an earlier version
            return self.fingerprint(former_keys(files)[self.readings["train"].good])
        return super().fingerprint_like(state_dict)

    def place(self, data: Any) -> Any:
        if isinstance(data, Pictures):
            return data
        if self.keeps or self.cache is None:
            return super().place(data)
        return data  # stays on the disk: pinned, it would have to fit in memory

    def sample_names(self, stage: Literal["train", "val", "test"]) -> Sequence[str]:
        part, pictures = ("test", self.files["test"]) if stage == "test" else ("train", self.training_files)
        return [pictures.describe(index) for index in self.readings[part].good.nonzero().flatten().tolist()]

    def stored_images(self, stage: Literal["train", "val", "test"], indices: Tensor) -> Tensor:
        data = self.test_images if stage == "test" else self.train_images
        if not isinstance(data, Pictures):
            return super().stored_images(stage, indices)
        chosen = data.select(indices)
        with ThreadPoolExecutor(os.cpu_count() if data.parallel else 1) as pool:  # Pillow decodes outside Python's lock
            return torch.stack(list(pool.map(lambda index: chosen[index][0], range(len(chosen)))))

    def first_training_images(self, count: int) -> ImageSet:
        if not isinstance(self.train_images, Pictures):
            return super().first_training_images(count)
        first = self.train_images.select(self.served_order("train")[:count])
        return ImageSet(torch.stack([first[index][0] for index in range(len(first))]), first.labels)

    def loader(self, data: Any, indices: Tensor, batch_size: int, *, shuffle: bool) -> InMemoryLoader | DataLoader:
        if not isinstance(data, Pictures):
            return super().loader(data, indices, batch_size, shuffle=shuffle)
        return FileLoader(data, self.batches(data.labels, indices, batch_size, shuffle=shuffle), self.num_workers)

    def summary(self) -> DataSummary:
        parts = [("train", self.training_files), ("test", self.files["test"])]
        known = [(self.readings[part], pictures) for part, pictures in parts if part == "train" or self.test_images]
        digests = np.concatenate([reading.digests[reading.good.numpy()] for reading, _ in known])
        places = [(pictures, index) for reading, pictures in known for index in reading.good.nonzero().flatten()]
        sizes, modes = sizes_and_modes([fact for reading, _ in known for fact in reading.facts])
        needed = len(digests) * self.form.nbytes
        by = f"by {self.num_workers} processes" if self.num_workers else "by the training process"
        where = f"not kept: decoded batch by batch {by}"
        if self.cache is not None:
            where = f"mapped from {self.cache}"
        memory = {"bytes": needed, "where": where}
        return self.summarise(
            digests,
            lambda index: self.called(places[index][0], int(places[index][1])),
            memory=self.memory([self.train_images.images]) | {"bytes": needed}
            if self.keeps and self.cache is None
            else memory,
            normalisation={"mean": self.mean, "std": self.std, "from": self.normalised_from},
            sizes=sizes,
            modes=modes,
            skipped=dict(self.skipped.most_common()),
            unreadable=self.unreadable,
            form={"fit": self.fit, "background": self.background},
        )

    def describe_split(self) -> dict[str, str]:
        val = {"val": "a part of its own"} if "val" in self.files else super().describe_split()
        share = f"{self.test_size} of the images, stratified, the same ones at any seed"
        return val | {"test": share if self.takes_test else "a part of its own"}


def signed(digests: np.ndarray) -> Tensor:
    """(N,) hashes as int64, which torch compares."""
    return torch.from_numpy(digests.view(np.int64))


def missing_classes(labels: Tensor, class_names: Sequence[str]) -> list[str]:
    counts = class_counts(labels, len(class_names))
    return [name for name, count in zip(class_names, counts, strict=True) if not count]


def ordered(found: Sequence[str], wanted: Sequence[str] | None, place: Any, what: str) -> tuple[str, ...]:
    """The class names in the wanted order, or else as they were found.

    Args:
        found: The names.
        wanted: The setting `data.class_names`.
        place: Where they were found.
        what: What has a name there, such as "class folder".

    Raises:
        UserError: Other ones are wanted.
    """
    if wanted is None:
        return tuple(found)
    if sorted(wanted) != sorted(found):
        example = shell_quoted(f"data.class_names={json.dumps(list(found), ensure_ascii=False)}")
        raise UserError(
            f"expected data.class_names to name each {what} in {place} once but found {', '.join(wanted)}; "
            f"for example {example}"
        )
    return tuple(wanted)
