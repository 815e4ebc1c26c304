"""Split, normalisation, and a resumed training that meets what the uninterrupted one met."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from sklearn.model_selection import StratifiedShuffleSplit
from torch import Tensor
from torchvision.transforms import v2

from image_classifier.data.augment import Augmentation
from image_classifier.data.batches import ImageSet
from image_classifier.data.datamodule import ImageDataModule, normalize, stratified_split
from image_classifier.data.synthetic import Synthetic
from image_classifier.errors import UserError


@pytest.mark.parametrize("class_sizes", [[50, 50, 50], [90, 9, 40, 3], [7, 13, 29, 31, 17]])
@pytest.mark.parametrize("val_size", [0.1, 0.25, 20, 33])
def test_split_has_the_class_shares_of_scikit_learn(class_sizes: list[int], val_size: int | float) -> None:
    labels = torch.repeat_interleave(torch.arange(len(class_sizes)), torch.tensor(class_sizes))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    train, val = stratified_split(labels, val_size, seed=1)
    count = round(val_size * len(labels)) if val_size < 1 else val_size
    assert len(val) == count
    assert torch.equal(torch.cat([train, val]).sort().values, torch.arange(len(labels)))
    splitter = StratifiedShuffleSplit(n_splits=1, test_size=int(count), random_state=0)
    _, reference = next(splitter.split(np.zeros(len(labels)), labels.numpy()))
    ours = torch.bincount(labels[val], minlength=len(class_sizes))
    theirs = torch.bincount(labels[reference], minlength=len(class_sizes))
    # Both give each class its share rounded down or up; which ones are rounded up is scikit-learn's lot.
    assert (ours - theirs).abs().max() <= 1
    share = torch.tensor(class_sizes) * count / len(labels)
    assert ((ours - share).abs() < 1).all()


def test_split_is_a_function_of_the_seed() -> None:
    labels = torch.arange(100) % 4
    assert torch.equal(stratified_split(labels, 20, 1)[1], stratified_split(labels, 20, 1)[1])
    assert not torch.equal(stratified_split(labels, 20, 1)[1], stratified_split(labels, 20, 2)[1])


@pytest.mark.parametrize("val_size", [100, 101, 0.001])
def test_split_that_leaves_nothing_is_told(val_size: int | float) -> None:
    with pytest.raises(UserError, match=r"hold out 1 to 99 of 100 images.*data\.val_size"):
        stratified_split(torch.arange(100) % 4, val_size, 1)


@pytest.mark.parametrize("channels", [1, 3])
def test_normalisation_equals_torchvision(channels: int) -> None:
    images = torch.randint(256, (5, channels, 6, 7), dtype=torch.uint8)
    mean, std = [0.2, 0.5, 0.7][:channels], [0.3, 0.25, 0.1][:channels]
    reference = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)])(images)
    ours = normalize(images, mean, std)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, reference, rtol=1e-5, atol=1e-5)


def make_synthetic(**settings: Any) -> Synthetic:
    settings = {"num_classes": 4, "num_samples": 120, "image_size": 8, "batch_size": 8, "val_size": 0.25} | settings
    return Synthetic(**settings)


def test_labels_outside_the_classes_are_told() -> None:
    datamodule = make_synthetic()
    datamodule.class_names = datamodule.class_names[:3]
    datamodule.load_train_images = lambda: make_synthetic().load_train_images()  # type: ignore[method-assign]
    with pytest.raises(UserError, match=r"expected labels from 0 to 2 .* but found 0 to 3"):
        datamodule.setup("fit")


def test_first_training_images_are_training_images_as_stored() -> None:
    datamodule = make_synthetic(augmentation=Augmentation(flip=1.0))
    datamodule.setup("fit")
    images, labels = datamodule.first_training_images(5)
    stored = datamodule.load_train_images()
    chosen = datamodule.train_indices[:5]
    assert images.dtype == torch.uint8
    assert torch.equal(images, stored.images[chosen]) and torch.equal(labels, stored.labels[chosen])


class Recorder(pl.LightningModule):
    """Remembers what it was shown; its one weight makes it trainable."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[Tensor] = []
        self.validated: list[Tensor] = []

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        self.seen.append(batch[0].clone())
        return self.weight * batch[0].mean()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.validated.append(batch[0].clone())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class SaveEveryStep(pl.Callback):
    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        trainer.save_checkpoint(self.directory / f"{trainer.global_step}.ckpt")


def fit(directory: Path, ckpt_path: Path | None = None) -> Recorder:
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=3,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=directory,
        use_distributed_sampler=False,
        callbacks=None if ckpt_path else [SaveEveryStep(directory)],
    )
    model = Recorder()
    augmentation = Augmentation(flip=0.5, shift=1, erase=0.5, erase_size=4)
    trainer.fit(model, make_synthetic(augmentation=augmentation), ckpt_path=ckpt_path)
    return model


def test_resumed_training_meets_the_same_batches(tmp_path: Path) -> None:
    whole = fit(tmp_path)
    assert len(whole.seen) == 27  # 9 steps in each of 3 epochs
    for steps in (1, 4, 8, 9, 12, 18):  # inside and between epochs
        rest = fit(tmp_path, tmp_path / f"{steps}.ckpt")
        for resumed, straight in zip(rest.seen, whole.seen[steps:], strict=True):
            assert torch.equal(resumed, straight)


def test_augmentation_is_new_each_epoch_and_absent_from_validation(tmp_path: Path) -> None:
    model, datamodule = fit(tmp_path), make_synthetic()
    datamodule.setup("fit")
    assert datamodule.train_images is not None
    plain = normalize(datamodule.train_images.images, datamodule.mean, datamodule.std)
    known = {image.numpy().tobytes() for image in plain}
    seen = [{image.numpy().tobytes() for batch in model.seen[epoch * 9 :][:9] for image in batch} for epoch in (0, 1)]
    assert len(seen[0] - known) > 40 and len(seen[0] - seen[1]) > 40  # of 72
    for validated in model.validated:  # the 24 validation images are one batch
        assert torch.equal(validated, plain[datamodule.val_indices])


def test_images_without_a_label_are_served_and_split_like_a_class() -> None:
    labels = torch.tensor([0, 1, -100, -100] * 10)
    module = ImageDataModule(batch_size=4, val_size=0.5, mean=[0.5], std=[0.5])
    module.class_names = ("a", "b")
    placed = module.place(ImageSet(torch.zeros(40, 1, 2, 2, dtype=torch.uint8), labels))
    assert torch.equal(placed.labels, labels)
    train, val = stratified_split(labels, 0.5, seed=1)
    assert labels[val].sort().values.tolist() == [-100] * 10 + [0] * 5 + [1] * 5
    assert len(train) == 20
    with pytest.raises(UserError, match="expected labels from 0 to 1"):
        module.place(ImageSet(torch.zeros(1, 1, 2, 2, dtype=torch.uint8), torch.tensor([-1])))
