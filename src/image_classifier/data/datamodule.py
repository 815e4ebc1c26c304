"""The datamodule that all data sets share: split, loaders, and normalisation and augmentation on the device."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Generator, Tensor
from torch.utils.data import DataLoader

from image_classifier.data.augment import Augmentation
from image_classifier.engine.errors import UserError
from image_classifier.engine.images.batches import EpochBatches, ImageSet, InMemoryLoader
from image_classifier.engine.images.described import IGNORED, DescribedData
from image_classifier.engine.images.normalization import normalize
from image_classifier.engine.images.splits import stratified_fold, stratified_split
from image_classifier.engine.images.summary import class_counts

SAMPLINGS = ("shuffle", "balanced")

Loader = TypeVar("Loader", bound=InMemoryLoader | DataLoader)


class ImageDataModule(DescribedData):
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

    def load_train_images(self) -> ImageSet:
        """The images for training and validation together."""
        raise NotImplementedError

    def load_test_images(self) -> ImageSet:
        """The images for the final test."""
        raise NotImplementedError

    def training_labels(self) -> Tensor:
        """(N,) int64: labels of the images for training and validation together, on the CPU."""
        return (self.train_images or self.load_train_images()).labels.cpu()

    def class_counts(self) -> Tensor:
        """(K,) int64: training images of each class, known before `setup`."""
        labels = self.training_labels()
        labels = labels[self.split(labels)[0]]
        return torch.tensor(class_counts(labels, self.num_classes))

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

    def sample_names(self, stage: Literal["train", "val", "test"]) -> Sequence[str] | None:
        """Where each image comes from, by the indices of `served_order`; None where it is nothing but its index."""
        return None

    def stored_images(self, stage: Literal["train", "val", "test"], indices: Tensor) -> Tensor:
        """Images by the indices of `served_order`, as stored: (N, C, H, W) uint8 on the CPU."""
        data = self.test_images if stage == "test" else self.train_images
        assert data is not None, "setup() comes first"
        return data.images[indices.to(data.images.device)].cpu()

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
        loader = self.at_least_one_batch(loader, "train")
        if isinstance(loader.batch_sampler, EpochBatches):  # a resume has to know which batch is an epoch's last
            limit = getattr(self.trainer, "limit_train_batches", 1.0)
            loader.batch_sampler.taken = min(limit, len(loader)) if isinstance(limit, int) else int(limit * len(loader))
        return loader

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
        training = self.in_training
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
