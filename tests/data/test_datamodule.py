"""Split, normalisation, and a resumed training that meets what the uninterrupted one met."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from sklearn.model_selection import StratifiedKFold, StratifiedShuffleSplit
from torch import Tensor
from torchvision.transforms import v2

from image_classifier.data.augment import Augmentation
from image_classifier.data.datamodule import ImageDataModule
from image_classifier.data.synthetic import Synthetic
from image_classifier.engine.errors import UserError
from image_classifier.engine.images.batches import ImageSet
from image_classifier.engine.images.normalization import normalize
from image_classifier.engine.images.splits import stratified_fold, stratified_split


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
    chosen = datamodule.served_order("train")[:5]
    assert set(chosen.tolist()) <= set(datamodule.train_indices.tolist())
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

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.save_checkpoint(self.directory / f"end {trainer.global_step}.ckpt")


def fit(directory: Path, ckpt_path: Path | None = None, limit: int | float = 1.0, **settings: Any) -> Recorder:
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=3,
        limit_train_batches=limit,
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
    trainer.fit(model, make_synthetic(**{"augmentation": augmentation} | settings), ckpt_path=ckpt_path)
    return model


@pytest.mark.parametrize(("limit", "taken"), [(1.0, 9), (20, 9), (3, 3), (0.5, 4), (1, 1), (0.01, 1)])
def test_resumed_training_meets_the_same_batches(tmp_path: Path, limit: int | float, taken: int) -> None:
    whole = fit(tmp_path, limit=limit)
    assert len(whole.seen) == 3 * taken  # of 9 batches in each of 3 epochs
    ends = [f"end {taken}", f"end {2 * taken}"]
    for name in [*sorted({1, taken // 2 + 1, taken - 1, taken, taken + 1, 2 * taken} - {0}), *ends]:  # in and between
        rest = fit(tmp_path, tmp_path / f"{name}.ckpt", limit)
        for resumed, straight in zip(rest.seen, whole.seen[int(str(name).split()[-1]) :], strict=True):
            assert torch.equal(resumed, straight)


@pytest.mark.parametrize(
    ("before", "after", "name", "served"),
    [
        (3, 1.0, "2", [*range(2, 27)]),
        (0.5, 9, "2", [*range(2, 27)]),
        (1.0, 5, "2", [*range(2, 5), *range(9, 14), *range(18, 23)]),
        (3, 1.0, "end 3", [*range(9, 27)]),  # that epoch had come to its end
        (3, 2, "end 3", [*range(9, 11), *range(18, 20)]),
    ],
)
def test_another_limit_begins_or_goes_on_with_an_epoch_at_the_right_batch(
    tmp_path: Path, before: int | float, after: int | float, name: str, served: list[int]
) -> None:
    def batches(model: Recorder) -> list[list[float]]:
        return [sorted(images.mean((1, 2, 3)).tolist()) for images in model.seen]

    settings = {"augmentation": None}
    straight, _ = batches(fit(tmp_path / "whole", **settings)), fit(tmp_path, limit=before, **settings)
    assert batches(fit(tmp_path, tmp_path / f"{name}.ckpt", after, **settings)) == [straight[at] for at in served]


def test_augmentation_is_new_each_epoch_and_absent_from_validation(tmp_path: Path) -> None:
    model, datamodule = fit(tmp_path), make_synthetic()
    datamodule.setup("fit")
    assert datamodule.train_images is not None
    plain = normalize(datamodule.train_images.images, datamodule.mean, datamodule.std)
    known = {image.numpy().tobytes() for image in plain}
    seen = [{image.numpy().tobytes() for batch in model.seen[epoch * 9 :][:9] for image in batch} for epoch in (0, 1)]
    assert len(seen[0] - known) > 40 and len(seen[0] - seen[1]) > 40  # of 72
    for validated in model.validated:  # the 24 validation images are one batch
        assert torch.equal(validated, plain[datamodule.served_order("val")])


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


class Sorted(ImageDataModule):
    """Images of 5 classes, sorted by class; each shows its position in the data."""

    class_names = tuple("abcde")
    image_shape = (1, 1, 2)

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"batch_size": 10, "val_size": 0.5, "mean": [0.5], "std": [0.5]} | settings)

    def load_train_images(self) -> ImageSet:
        positions = torch.arange(200)
        return ImageSet(positions.byte().view(-1, 1, 1, 1).repeat(1, 1, 1, 2), positions // 40)

    load_test_images = load_train_images


def trainer_of(**settings: Any) -> pl.Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    return pl.Trainer(accelerator="cpu", logger=False, use_distributed_sampler=False, **quiet | settings)


@pytest.mark.parametrize("limit", [1, 2, 0.2, 0.01])
@pytest.mark.parametrize("stage", ["val", "test", "train"])
def test_first_batches_of_sorted_data_hold_all_classes(stage: str, limit: int | float) -> None:
    datamodule = Sorted(eval_batch_size=20)
    datamodule.setup("fit")
    datamodule.setup("test")
    limits = {"overfit_batches" if stage == "train" else f"limit_{stage}_batches": limit}
    datamodule.trainer = trainer_of(**limits)
    loader = getattr(datamodule, f"{stage}_dataloader")()
    images, labels = next(iter(loader))
    order = datamodule.served_order(stage)  # type: ignore[arg-type]
    assert len(labels.unique()) == 5
    assert torch.equal(images[:, 0, 0, 0].long(), order[: len(images)])  # the position in the data is known
    again = getattr(datamodule, f"{stage}_dataloader")()
    assert torch.equal(next(iter(again))[0], images)
    assert len(datamodule.first_training_images(10).labels.unique()) == 5


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("stage", ["val", "test"])
def test_processes_share_the_mixed_order_exactly(stage: str, world_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    datamodule = Sorted(eval_batch_size=7)
    datamodule.setup("fit")
    datamodule.setup("test")
    order = datamodule.served_order(stage)  # type: ignore[arg-type]
    expected = {"val": datamodule.val_indices, "test": torch.arange(200)}[stage]
    assert torch.equal(order.sort().values, expected)
    shares = []
    for rank in range(world_size):
        monkeypatch.setattr(pl.Trainer, "global_rank", rank)
        monkeypatch.setattr(pl.Trainer, "world_size", world_size)
        datamodule.trainer = trainer_of()
        loader = getattr(datamodule, f"{stage}_dataloader")()
        shares.append([images[:, 0, 0, 0].long() for images, _ in loader])
        assert [batch.tolist() for batch in loader.batch_sampler] == [batch.tolist() for batch in shares[-1]]
    served = [torch.stack(parts, dim=1).flatten() for parts in zip(*(share[:-1] for share in shares), strict=True)]
    assert torch.equal(torch.cat(served), order[: len(served) * 7 * world_size])
    everything = torch.cat([batch for share in shares for batch in share])
    assert torch.equal(everything.sort().values, expected)


def test_shuffled_order_of_training_is_that_of_sorted_indices() -> None:
    """The figures in the README rest on it."""
    datamodule = Sorted()
    datamodule.setup("fit")
    assert torch.equal(datamodule.train_indices, datamodule.train_indices.sort().values)
    permutation = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    served = torch.cat([images[:, 0, 0, 0].long() for images, _ in datamodule.train_dataloader()])
    assert torch.equal(served, datamodule.train_indices[permutation])


class Counting(Recorder):
    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.seen.append(batch[0])


@pytest.mark.parametrize(
    ("settings", "trained", "validated", "tested"),
    [
        ({}, 10, 5, 10),
        ({"limit_train_batches": 0.001}, 1, 5, 10),
        ({"limit_train_batches": 0.19}, 1, 5, 10),
        ({"limit_val_batches": 0.1}, 10, 1, 10),
        ({"limit_test_batches": 0.05}, 10, 5, 1),
        ({"limit_train_batches": 0.0}, 0, 0, 10),
        ({"limit_val_batches": 0.0}, 10, 0, 10),
        ({"limit_test_batches": 0.0}, 10, 5, 0),
        ({"limit_train_batches": 0.55, "limit_val_batches": 0.5, "limit_test_batches": 0.99}, 5, 2, 9),
        ({"limit_train_batches": 3, "limit_val_batches": 0, "limit_test_batches": 1}, 3, 0, 1),
        ({"overfit_batches": 0.01}, 1, 1, 10),
        ({"overfit_batches": 2}, 2, 2, 10),
    ],
)
def test_fraction_takes_at_least_one_batch(settings: Any, trained: int, validated: int, tested: int) -> None:
    trainer = trainer_of(max_epochs=1, num_sanity_val_steps=0, **settings)
    model = Counting()
    trainer.fit(model, datamodule := Sorted(eval_batch_size=20))
    assert (len(model.seen), len(model.validated)) == (trained, validated)
    model.seen.clear()
    trainer.test(model, datamodule, verbose=False)
    assert len(model.seen) == tested


@pytest.mark.parametrize("flip", [0.5, 0.001, 1.0])
def test_images_that_must_not_be_mirrored_are_not(flip: float) -> None:
    with pytest.raises(UserError, match=rf"data\.augmentation\.flip=0 .*\(data\.mirror=false\) but found {flip}"):
        Sorted(mirror=False, augmentation=Augmentation(flip=flip))
    for augmentation in (None, Augmentation(flip=0.0, shift=1), lambda images, generator: images):
        assert not Sorted(mirror=False, augmentation=augmentation).mirror
    assert Sorted(mirror=True, augmentation=Augmentation(flip=flip)).mirror


def set_up(**settings: Any) -> Synthetic:
    datamodule = make_synthetic(**settings)
    datamodule.setup("fit")
    return datamodule


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        ({}, True),
        ({"batch_size": 3, "eval_batch_size": 2, "augmentation": Augmentation(flip=0.5)}, True),
        ({"seed": 1}, False),
        ({"val_size": 0.3}, False),
        ({"val_size": 25}, False),
        ({"num_samples": 121}, False),
        ({"image_size": 9}, False),
        ({"imbalance": 3.0}, False),
    ],
)
def test_fingerprint_is_of_images_and_split(changed: dict[str, Any], same: bool) -> None:
    state = set_up().state_dict()
    assert list(state) == ["fingerprint"] and isinstance(state["fingerprint"], str)
    other = set_up(**changed)
    if same:
        other.load_state_dict(state)
    else:
        with pytest.raises(UserError, match=r"^expected the images and the split that .* but found others; [^\n]*$"):
            other.load_state_dict(state)


@pytest.mark.parametrize("change", ["pixel values", "a label", "class names"])
def test_fingerprint_notices_other_content(change: str) -> None:
    datamodule = make_synthetic()
    images, labels = datamodule.load_train_images()
    if change == "pixel values":
        images = images + (torch.arange(len(images)) == 50).byte().view(-1, 1, 1, 1)
    elif change == "a label":
        labels = torch.where(torch.arange(len(labels)) == 50, (labels + 1) % 4, labels)
    else:
        datamodule.class_names = datamodule.class_names[::-1]
    datamodule.load_train_images = lambda: ImageSet(images, labels)  # type: ignore[method-assign]
    datamodule.setup("fit")
    with pytest.raises(UserError, match="found others"):
        datamodule.load_state_dict(set_up().state_dict())


def test_lightning_keeps_and_compares_the_fingerprint(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"max_epochs": 1, "default_root_dir": tmp_path}
    trainer = trainer_of(**settings)
    trainer.fit(Counting(), make_synthetic())
    trainer.save_checkpoint(path := tmp_path / "a.ckpt")
    assert torch.load(path, weights_only=True)["Synthetic"] == set_up().state_dict()
    settings["max_epochs"] = 2
    trainer_of(**settings).fit(Counting(), make_synthetic(), ckpt_path=path)
    with pytest.raises(UserError, match=r"split that .*a\.ckpt was trained on but found others"):
        trainer_of(**settings).fit(Counting(), make_synthetic(seed=1), ckpt_path=path)
    only_tested = make_synthetic(seed=1)  # other data than in training
    trainer_of(**settings).test(Counting(), only_tested, ckpt_path=path, verbose=False)
    assert only_tested.state_dict() == {}
    set_up(seed=1).load_state_dict({})  # a checkpoint that is older than the fingerprint


def test_data_without_a_directory_cannot_be_relocated() -> None:
    with pytest.raises(UserError, match=r"data set in a directory but found Synthetic, which has none.*data\.root=new"):
        make_synthetic().relocate("new", ["a"], {})


@pytest.mark.parametrize("sampling", ["shuffle", "balanced"])
def test_sampling_of_a_rare_class(sampling: str) -> None:
    datamodule = make_synthetic(imbalance=20.0, num_samples=500, sampling=sampling)  # type: ignore[arg-type]
    datamodule.setup("fit")
    labels = torch.cat([labels for _, labels in datamodule.train_dataloader()])
    counts = torch.bincount(labels)
    assert len(labels) == len(datamodule.train_indices)
    assert int(counts.max() - counts.min()) <= 1 if sampling == "balanced" else counts.max() > 10 * counts.min()
    for loader in (datamodule.val_dataloader(),):  # validation is as it is
        served = torch.cat([labels for _, labels in loader])
        assert served.sort().values.equal(datamodule.train_images.labels[datamodule.val_indices].sort().values)  # type: ignore[union-attr]


def test_unknown_sampling_is_told() -> None:
    with pytest.raises(UserError, match=r"data\.sampling to be one of shuffle, balanced but found 'fair'"):
        make_synthetic(sampling="fair")


@pytest.mark.parametrize("class_sizes", [[50, 50, 50], [90, 9, 40, 3], [7, 13, 29, 31, 17], [1, 1, 8]])
@pytest.mark.parametrize("folds", [2, 3, 5, 10])
def test_folds_together_are_all_images_each_with_the_class_shares_of_scikit_learn(
    class_sizes: list[int], folds: int
) -> None:
    labels = torch.repeat_interleave(torch.arange(len(class_sizes)), torch.tensor(class_sizes))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    parts = [stratified_fold(labels, folds, fold, seed=1) for fold in range(folds)]
    assert torch.equal(torch.cat([val for _, val in parts]).sort().values, torch.arange(len(labels)))
    sizes = [len(val) for _, val in parts]
    assert max(sizes) - min(sizes) <= 1
    for train, val in parts:
        assert torch.equal(torch.cat([train, val]).sort().values, torch.arange(len(labels)))
        share = torch.tensor(class_sizes) / folds
        assert ((torch.bincount(labels[val], minlength=len(class_sizes)) - share).abs() < 1).all()
    if min(class_sizes) >= folds:
        theirs = StratifiedKFold(folds, shuffle=True, random_state=0).split(np.zeros(len(labels)), labels.numpy())
        for (_, val), (_, reference) in zip(parts, theirs, strict=True):
            difference = torch.bincount(labels[val]) - torch.bincount(labels[torch.from_numpy(reference)])
            assert difference.abs().max() <= 1
    if len(labels) > 10:
        assert not torch.equal(stratified_fold(labels, folds, 0, seed=2)[1], parts[0][1])


@pytest.mark.parametrize(("folds", "fold", "message"), [
    (1, 0, r"data\.folds to be from 2 to 9, .* found 1"),
    (10, 0, r"data\.folds to be from 2 to 9, .* found 10"),
    (3, 3, r"data\.fold to be from 0 to 2 but found 3"),
])  # fmt: skip
def test_folds_that_cannot_be_are_told(folds: int, fold: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        stratified_fold(torch.arange(9) % 2, folds, fold, seed=1)


def test_a_fold_is_held_out_in_place_of_the_share() -> None:
    held_out = []
    for fold in range(3):
        datamodule = make_synthetic(folds=3, fold=fold)
        datamodule.setup("fit")
        assert len(datamodule.val_indices) == 32 and len(datamodule.train_indices) == 64
        assert datamodule.describe_split() == {"val": f"fold {fold} of 3, stratified, seed 0"}
        held_out.append(datamodule.val_indices)
    assert torch.equal(torch.cat(held_out).sort().values, torch.arange(96))
