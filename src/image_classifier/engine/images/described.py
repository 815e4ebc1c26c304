"""What is told of a data set before a training, and what a checkpoint keeps of it."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.states import RunningStage
from torch import Tensor

from image_classifier.engine.errors import UserError
from image_classifier.engine.images.batches import ImageSet
from image_classifier.engine.images.summary import DataSummary, class_counts, image_digests, same_content

IGNORED = -100  # label of an image without one; torch's default for `ignore_index`
PIXELS_IN_FINGERPRINT = 2**18  # evenly spread over all images


class DescribedData(pl.LightningDataModule):
    """A datamodule that can be summarised, and that a checkpoint knows again."""

    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]  # channels, height, width
    mean: tuple[float, ...]
    std: tuple[float, ...]
    seed: int
    val_size: int | float
    folds: int | None
    fold: int
    train_indices: Tensor
    val_indices: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.identity: dict[str, Any] = {}
        self.train_images: ImageSet | None = None
        self.test_images: ImageSet | None = None

    @property
    def in_training(self) -> bool:
        """Whether it serves a training now. `trainer.training` says the same in ten times the time."""
        return self.trainer is not None and self.trainer.state.stage is RunningStage.TRAINING

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def source(self) -> str:
        """Where the images come from, in a word."""
        return type(self).__name__

    def identify(self) -> dict[str, Any]:
        """What a checkpoint keeps of the images and of the split, so that a resumed run cannot train on others."""
        return {"fingerprint": self.fingerprint(self.image_sample())}

    def fingerprint(self, sample: Tensor) -> str:
        """A hash of classes, labels and split, and of values that differ when the images do."""
        assert self.train_images is not None
        labels, *parts = (part.cpu() for part in (self.train_images.labels, self.train_indices, self.val_indices))
        digest = hashlib.sha256(repr(self.class_names).encode())
        for part in (labels, *parts, sample):
            digest.update(repr(part.shape).encode() + part.numpy().tobytes())
        return digest.hexdigest()

    def fingerprint_like(self, state_dict: dict[str, Any]) -> str:
        """The fingerprint of these images, made as that of a checkpoint was."""
        return self.identity["fingerprint"]

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
        if self.identity and expected and self.fingerprint_like(state_dict) != expected:
            checkpoint = (self.trainer and self.trainer.ckpt_path) or "the checkpoint"
            raise UserError(
                f"expected the images and the split that {checkpoint} was trained on but found others; keep seed and "
                "data.* as in its config.yaml, or start a new run: ckpt_path=null"
            )
