"""The datamodule that all data sets share: split, loaders, and normalisation and augmentation on the device."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from torch import Generator, Tensor
from torch.utils.data import DataLoader

from image_classifier.data.augment import Augmentation
from image_classifier.engine.errors import UserError
from image_classifier.engine.images.batches import EpochBatches, ImageSet, InMemoryLoader
from image_classifier.engine.images.normalization import normalize
from image_classifier.engine.images.summary import DataSummary, class_counts, image_digests, same_content

IGNORED = -100  # label of an image without one; torch's default for `ignore_index`
SAMPLINGS = ("shuffle", "balanced")
PIXELS_IN_FINGERPRINT = 2**18  # evenly spread over all images

Loader = TypeVar("Loader", bound=InMemoryLoader | DataLoader)


class ImageDataModule(pl.LightningDataModule):
    """Serves uint8 images as normalised float batches. Subclasses say what the images are.

    A subclass sets `class_names` and `image_shape` (known after `prepare_data`) and implements
    `load_train_images` and `load_test_images`.

    Args:
        batch_size: Training images a step and process.
        eval_batch_size: Images a step and process in validation and test.
        val_size: Training images held out for validation: a count, or a fraction below 1. Stratified.
        folds: Split the images for training in so many stratified parts instead of by `val_size`; None for no
            cross-validation.
        fold: Which of the parts is held out, from 0.
        seed: Seed of the split, of the order of the training images and of the augmentation.
        mean: Mean of the pixels per channel, in units of the full range (0 to 1).
        std: Standard deviation of the pixels per channel, in the same units.
        device: Where the images lie: "auto" (the training device when they fill less than half of its
            free memory), "cpu", or a device name such as "cuda".
        sampling: "shuffle": each training image once an epoch; "balanced": as many images an epoch, each class equally
            often.
        augmentation: Applied to training batches; None for none. A list holds transforms of single images, such as
            those of `torchvision.transforms.v2`, or their names.
        mix: Blends training images and their labels; None for no blending.
        mirror: Whether an image and its mirror image show the same class; digits and characters do not.

    Raises:
        UserError: Images that must not be mirrored are to be flipped, or the sampling is not known.
    """

    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]  # channels, height, width

    def __init__(
        self,
        *,
        batch_size: int,
        eval_batch_size: int = 1000,
        val_size: int | float,
        folds: int | None = None,
        fold: int = 0,
        seed: int = 0,
        mean: Sequence[float],
        std: Sequence[float],
        device: str = "auto",
        sampling: Literal["shuffle", "balanced"] = "shuffle",
        augmentation: Callable[[Tensor, Generator], Tensor] | Sequence[Any] | None = None,
        mix: Callable[[Tensor, Tensor, int, Generator], tuple[Tensor, Tensor]] | None = None,
        mirror: bool = True,
    ) -> None:
        super().__init__()
        if sampling not in SAMPLINGS:
            raise UserError(f"expected data.sampling to be one of {', '.join(SAMPLINGS)} but found {sampling!r}")
        if isinstance(augmentation, Sequence):
            augmentation = Augmentation(transforms=augmentation)
        if not mirror and (flip := getattr(augmentation, "mirrors", 0)) > 0:
            raise UserError(
                "expected data.augmentation.flip=0 because a mirror image is another class here (data.mirror=false) "
                f"but found {flip}; add data.augmentation.flip=0 and leave out transforms that flip, or add "
                "data.mirror=true"
            )
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.val_size = val_size
        self.folds = folds
        self.fold = fold
        self.seed = seed
        self.mean = tuple(mean)
        self.std = tuple(std)
        self.device = device
        self.sampling = sampling
        self.augmentation = augmentation if getattr(augmentation, "active", True) else None
        self.mix = mix if getattr(mix, "active", True) else None
        self.mirror = mirror
        self.identity: dict[str, Any] = {}
        self.train_images: ImageSet | None = None
        self.test_images: ImageSet | None = None

    def load_train_images(self) -> ImageSet:
        """The images for training and validation together."""
        raise NotImplementedError

    def load_test_images(self) -> ImageSet:
        """The images for the final test."""
        raise NotImplementedError

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def training_labels(self) -> Tensor:
        """(N,) int64: labels of the images for training and validation together, on the CPU."""
        return (self.train_images or self.load_train_images()).labels.cpu()

    def class_counts(self) -> Tensor:
        """(K,) int64: training images of each class, known before `setup`."""
        labels = self.training_labels()
        labels = labels[self.split(labels)[0]]
        return torch.tensor(class_counts(labels, self.num_classes))

    @property
    def source(self) -> str:
        """Where the images come from, in a word."""
        return type(self).__name__

    def setup(self, stage: Literal["fit", "validate", "test", "predict"] | str) -> None:
        if stage in ("fit", "validate") and self.train_images is None:
            self.train_images = self.place(self.load_train_images())
            self.train_indices, self.val_indices = self.split(self.train_images.labels.cpu())
            self.check_labels()
            self.identity = self.identify()
        if stage == "test" and self.test_images is None:
            self.test_images = self.place(self.load_test_images())

    def split(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Indices for training and for validation of (N,) labels."""
        if self.folds is not None:
            return stratified_fold(labels, self.folds, self.fold, self.seed)
        return stratified_split(labels, self.val_size, self.seed)

    def check_labels(self) -> None:
        """Refuse to mix images of which some have no label."""
        assert self.train_images is not None
        unlabelled = int((self.train_images.labels == IGNORED).sum())
        if unlabelled and self.mix is not None:
            raise UserError(
                f"expected a label for each training image because data.mix blends labels but found {unlabelled} "
                "images without one; leave out data.mix, or these images"
            )

    def place(self, data: ImageSet) -> ImageSet:
        """Check the labels, and move the images to the device that serves them."""
        known = data.labels[data.labels != IGNORED]
        lowest, highest = (int(known.min()), int(known.max())) if len(known) else (0, 0)
        if lowest < 0 or highest >= self.num_classes:
            raise UserError(
                f"expected labels from 0 to {self.num_classes - 1} (data.num_classes={self.num_classes}) "
                f"but found {lowest} to {highest}"
            )
        device = torch.device("cpu" if self.device == "auto" else self.device)
        if self.device == "auto" and self.trainer is not None:
            target = self.trainer.strategy.root_device
            if target.type == "cuda" and data.images.nbytes < torch.cuda.mem_get_info(target)[0] / 2:
                device = target
        if device.type == "cpu" and torch.cuda.is_available():
            return ImageSet(data.images.pin_memory(), data.labels.pin_memory())
        return ImageSet(data.images.to(device), data.labels.to(device))

    def identify(self) -> dict[str, Any]:
        """What a checkpoint keeps of the images and of the split, so that a resumed run cannot train on others."""
        assert self.train_images is not None
        labels, *parts = (part.cpu() for part in (self.train_images.labels, self.train_indices, self.val_indices))
        digest = hashlib.sha256(repr(self.class_names).encode())
        for part in (labels, *parts, self.image_sample()):
            digest.update(repr(part.shape).encode() + part.numpy().tobytes())
        return {"fingerprint": digest.hexdigest()}

    def image_sample(self) -> Tensor:
        """Values on the CPU that differ when the images for training and validation do."""
        assert self.train_images is not None
        pixels = self.train_images.images.reshape(-1)
        return pixels[:: pixels.numel() // PIXELS_IN_FINGERPRINT | 1].cpu()  # an odd step meets all columns

    def summary(self) -> DataSummary:
        """What the data set holds: those parts that are set up. Comes after `setup("fit")`."""
        images = [data.images for data in (self.train_images, self.test_images) if data is not None]
        digests = np.concatenate([image_digests(part) for part in images])
        return self.summarise(digests, memory=self.memory(images))

    def summarise(self, digests: np.ndarray, name: Callable[[int], str] = str, **further: Any) -> DataSummary:
        """A summary with what is known of all data sets.

        Args:
            digests: Hashes of the contents of the images for training and validation, followed by those of the test.
            name: How each of them is called, by its index.
            further: Fields of the summary.
        """
        assert self.train_images is not None, "setup() comes first"
        labels, number = self.train_images.labels.cpu(), self.num_classes
        parts = {"train": labels[self.train_indices], "val": labels[self.val_indices]}
        part_of = torch.zeros(len(labels), dtype=torch.int64)
        part_of[self.val_indices] = 1
        if self.test_images is not None:
            parts["test"] = self.test_images.labels.cpu()
            part_of = torch.cat([part_of, torch.full((len(parts["test"]),), 2)])
            labels = torch.cat([labels, parts["test"]])
        labelled = np.where(labels.numpy() == IGNORED, np.uint64(0), digests)
        duplicates, duplicated = same_content(digests, part_of.numpy(), name)
        fields: dict[str, Any] = {
            "source": self.source,
            "class_names": self.class_names,
            "counts": {part: class_counts(found, number) for part, found in parts.items()},
            "unlabelled": {part: int((found == IGNORED).sum()) for part, found in parts.items()},
            "image_shape": self.image_shape,
            "normalisation": {"mean": self.mean, "std": self.std, "from": "given"},
            "split": self.describe_split(),
            "duplicates": duplicates,
            "duplicated": duplicated,
            "conflicts": same_content(labelled, labels.numpy(), name)[0],
        }
        return DataSummary(**fields | further)

    def memory(self, images: Sequence[Tensor]) -> dict[str, Any]:
        """The `memory` of a summary for decoded images."""
        where = ", ".join(sorted({str(part.device) for part in images}))
        return {"bytes": sum(part.nbytes for part in images), "where": f"in memory ({where})"}

    def describe_split(self) -> dict[str, str]:
        """How the parts were chosen, in words."""
        if self.folds is not None:
            return {"val": f"fold {self.fold} of {self.folds}, stratified, seed {self.seed}"}
        return {"val": f"{self.val_size} of the images for training, stratified, seed {self.seed}"}

    def state_dict(self) -> dict[str, Any]:
        """What `identify` found; empty when only the test images were set up."""
        return self.identity

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Compare the images and the split with those of the checkpoint that is loaded.

        Raises:
            UserError: They differ.
        """
        expected = state_dict.get("fingerprint")
        if self.identity and expected and self.identity["fingerprint"] != expected:
            checkpoint = (self.trainer and self.trainer.ckpt_path) or "the checkpoint"
            raise UserError(
                f"expected the images and the split that {checkpoint} was trained on but found others; keep seed and "
                "data.* as in its config.yaml, or start a new run: ckpt_path=null"
            )

    def relocate(self, root: str, class_names: Sequence[str], training_state: Mapping[str, Any]) -> None:
        """Test on other data. Comes before `prepare_data`.

        Args:
            root: Directory of the other data.
            class_names: Names of the classes, in the order of the network's outputs.
            training_state: What `state_dict` returned in training; may be empty.

        Raises:
            UserError: The data set has no directory.
        """
        if not hasattr(self, "root"):
            raise UserError(
                f"expected a data set in a directory but found {type(self).__name__}, which has none; "
                f"leave out data.root={root}"
            )
        self.root = Path(root).expanduser()

    def served_order(self, stage: Literal["train", "val", "test"]) -> Tensor:
        """Which sample is served at which position where nothing is shuffled: in validation, test and overfitting.

        The order is mixed, and always the same, because data are often sorted by class and the first batches may be
        all that is looked at. Of several processes, each yields its own share: `loader.batch_sampler`.

        Returns:
            (N,) int64: indices into the test images, or into those for training and validation together.
        """
        if stage == "test":
            assert self.test_images is not None, "setup() comes first"
            indices = torch.arange(len(self.test_images.labels))
        else:
            indices = self.train_indices if stage == "train" else self.val_indices
        return indices[torch.randperm(len(indices), generator=torch.Generator().manual_seed(0))]

    def first_training_images(self, count: int) -> ImageSet:
        """Some training images of all classes, as stored: (N, C, H, W) uint8 on the CPU."""
        assert self.train_images is not None, "setup() comes first"
        chosen = self.served_order("train")[:count].to(self.train_images.images.device)
        return ImageSet(self.train_images.images[chosen].cpu(), self.train_images.labels[chosen].cpu())

    def train_dataloader(self) -> InMemoryLoader | DataLoader:
        # Lightning's own switch for this does not reach a loader that is not torch's.
        same_batches = self.trainer is not None and self.trainer.overfit_batches > 0  # type: ignore[attr-defined]
        indices = self.served_order("train") if same_batches else self.train_indices
        loader = self.loader(self.train_images, indices, self.batch_size, shuffle=not same_batches)
        return self.at_least_one_batch(loader, "train")

    def val_dataloader(self) -> InMemoryLoader | DataLoader:
        loader = self.loader(self.train_images, self.served_order("val"), self.eval_batch_size, shuffle=False)
        return self.at_least_one_batch(loader, "val")

    def test_dataloader(self) -> InMemoryLoader | DataLoader:
        loader = self.loader(self.test_images, self.served_order("test"), self.eval_batch_size, shuffle=False)
        return self.at_least_one_batch(loader, "test")

    def at_least_one_batch(self, loader: Loader, stage: str) -> Loader:
        """Have a fraction that leaves less than one batch take one; Lightning, which reads the limit next, raises."""
        limit = f"limit_{stage}_batches"
        share = getattr(self.trainer, limit, None)
        if isinstance(share, float) and 0 < share * len(loader) < 1:
            setattr(self.trainer, limit, 1)
        return loader

    def loader(
        self, data: ImageSet | None, indices: Tensor, batch_size: int, *, shuffle: bool
    ) -> InMemoryLoader | DataLoader:
        assert data is not None, "setup() comes first"
        indices = indices.to(data.images.device)
        return InMemoryLoader(data, self.batches(data.labels, indices, batch_size, shuffle=shuffle))

    def batches(self, labels: Tensor, indices: Tensor, batch_size: int, *, shuffle: bool) -> EpochBatches:
        """Which of the images with these (N,) labels form which batch."""
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        if len(indices) < world_size:
            raise UserError(
                f"expected at least one image for each of {world_size} processes but found {len(indices)}; "
                f"use fewer processes: trainer.devices={len(indices)}"
            )
        balanced = labels[indices].cpu() if shuffle and self.sampling == "balanced" else None
        return EpochBatches(
            indices,
            batch_size,
            shuffle=shuffle,
            balanced_by=balanced,
            seed=self.seed,
            rank=rank,
            world_size=world_size,
        )

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Augment (in training), normalise and mix (in training) a batch on its device."""
        if isinstance(batch, Tensor):  # the model summary's example input
            return batch
        images, labels = batch
        training = self.trainer is not None and self.trainer.training
        if self.augmentation is not None and training:
            images = self.augmentation(images, self.batch_generator(images.device))
        images = normalize(images, self.mean, self.std)
        if self.mix is not None and training:
            images, labels = self.mix(images, labels, self.num_classes, self.batch_generator(images.device))
        return images, labels

    def batch_generator(self, device: torch.device) -> torch.Generator:
        """Randomness as a function of seed, rank and step only, so that a resumed run repeats it exactly."""
        assert self.trainer is not None
        step = self.trainer.fit_loop.total_batch_idx
        seeds = np.random.SeedSequence((self.seed, self.trainer.global_rank, step + 1))
        return torch.Generator(device).manual_seed(int(seeds.generate_state(1)[0]))


@rank_zero_only
def tell(message: str) -> None:
    """Print a line, once whatever the number of processes."""
    print(message, flush=True)


def height_and_width(image_size: int | Sequence[int]) -> tuple[int, int]:
    """Height and width of `data.image_size`, which is one number or the two."""
    if isinstance(image_size, int):
        return image_size, image_size
    height, width = image_size
    return height, width


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
