"""Mixup and CutMix: soft targets that sum to one, an accuracy that stays defined, randomness that repeats."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from image_classifier import pipeline
from image_classifier.data.datamodule import ImageDataModule
from image_classifier.data.mix import Mix
from image_classifier.data.synthetic import Synthetic
from image_classifier.engine.errors import UserError
from image_classifier.engine.images.batches import ImageSet
from image_classifier.engine.training.metrics import EpochMetrics
from image_classifier.models.classifier import Classifier
from tiny import TINY


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def constant_batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Image i has the value i everywhere, and the label i."""
    labels = torch.arange(6)
    return labels.float().view(-1, 1, 1, 1).repeat(1, 1, 16, 16), labels


@pytest.mark.parametrize("seed", range(4))
def test_mixup_blends_pixels_and_labels_by_the_same_share(seed: int) -> None:
    images, labels = constant_batch()
    mixed, targets = Mix(mixup=1.0)(images, labels, 6, generator(seed))
    share = targets[torch.arange(6), labels]
    torch.testing.assert_close(targets.sum(1), torch.ones(6))
    partner = labels.roll(1).float()
    expected = share * labels + (1 - share) * partner
    torch.testing.assert_close(mixed, expected.view(-1, 1, 1, 1).expand_as(mixed))
    assert 0 < float(share[0]) < 1


@pytest.mark.parametrize("seed", range(4))
def test_cutmix_gives_labels_the_share_of_the_area(seed: int) -> None:
    images, labels = constant_batch()
    mixed, targets = Mix(cutmix=1.0)(images, labels, 6, generator(seed))
    own = (mixed == images).float().mean((1, 2, 3))
    torch.testing.assert_close(targets[torch.arange(6), labels], own)
    assert ((mixed == images) | (mixed == images.roll(1, 0))).all()


def test_with_both_each_batch_meets_one_of_the_two() -> None:
    images, labels = constant_batch()
    kinds = set()
    for seed in range(12):
        mixed, _ = Mix(mixup=1.0, cutmix=1.0)(images, labels, 6, generator(seed))
        kinds.add("cutmix" if ((mixed == images) | (mixed == images.roll(1, 0))).all() else "mixup")
    assert kinds == {"mixup", "cutmix"}


def test_randomness_is_of_the_generator_alone() -> None:
    state = torch.get_rng_state()
    first, second, other = (Mix(mixup=0.4)(*constant_batch(), 6, generator(seed))[1] for seed in (1, 1, 2))
    assert torch.equal(first, second) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_zero_mixes_nothing() -> None:
    images, labels = constant_batch()
    assert not Mix().active
    mixed, targets = Mix()(images, labels, 6, generator())
    assert mixed is images and targets is labels


def test_images_without_a_label_are_not_mixed() -> None:
    module = ImageDataModule(batch_size=2, val_size=0.5, mean=[0.5], std=[0.5], mix=Mix(mixup=0.2))
    module.class_names = ("a", "b")
    labels = torch.tensor([0, 1, -100, 1])
    module.load_train_images = lambda: ImageSet(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), labels)  # type: ignore[method-assign]
    with pytest.raises(UserError, match=r"label for each training image because data\.mix .* found 1 images without"):
        module.setup("fit")


class Watch(pl.Callback):
    """Keeps what each training step was given, and checks that validation is given labels."""

    def __init__(self) -> None:
        self.batches: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, *args: Any) -> None:
        self.batches.append((batch[0].clone(), batch[1].clone()))
        self.losses.append(float(outputs["loss"]))

    def on_validation_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, *args: Any) -> None:
        assert batch[1].dtype == torch.int64


class Fixed(torch.nn.Module):
    """Logits that depend on the image only, however long it is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)[:, :4] * 3 * self.scale


@pytest.mark.parametrize("mix", [Mix(mixup=1.0), Mix(cutmix=1.0), Mix(mixup=0.5, cutmix=0.5)])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_loss_is_of_the_soft_targets_and_accuracy_of_the_hard_ones(mix: Mix, label_smoothing: float) -> None:
    settings: dict[str, Any] = {
        "num_classes": 4,
        "num_samples": 120,
        "image_size": 8,
        "batch_size": 7,
        "val_size": 0.25,
    }
    datamodule = Synthetic(mix=mix, **settings)
    loss = nn.CrossEntropyLoss(label_smoothing=label_smoothing)
    model = Classifier(Fixed(), lambda parameters: torch.optim.SGD(parameters, lr=0.0), loss=loss)
    watch = Watch()
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[EpochMetrics(), watch], use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(model, datamodule)
    assert sum(len(targets) for _, targets in watch.batches) == 72
    correct, losses = 0, 0.0
    for (images, targets), loss in zip(watch.batches, watch.losses, strict=True):
        logits = Fixed()(images).detach()
        smooth = targets * (1 - label_smoothing) + label_smoothing / 4
        expected = -(smooth * logits.log_softmax(1)).sum(1).mean()
        assert loss == pytest.approx(float(expected), rel=1e-4)
        losses += loss * len(targets)
        correct += int((logits.argmax(1) == targets.argmax(1)).sum())
        assert cross_entropy(logits, targets).isfinite()
    assert float(trainer.callback_metrics["train/acc"]) == pytest.approx(correct / 72)
    assert float(trainer.callback_metrics["train/loss"]) == pytest.approx(losses / 72, rel=1e-4)


def test_mix_by_configuration_and_its_evaluation(compose_config: Callable[..., Any], tmp_path: Path) -> None:
    pipeline.train(compose_config(*TINY, "logger=none", "data.mix.mixup=0.2", "data.mix.cutmix=1"))
    _, datamodule = pipeline.load_run(str(tmp_path / "run" / "checkpoints" / "best.ckpt"))
    assert datamodule.mix == Mix(0.2, 1)


def test_a_class_that_is_ignored_is_not_mixed(compose_config: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match=r"no mixed labels because model\.ignore_index=2 .* data\.mix\.mixup=0\.2"):
        compose_config(*TINY, "data.mix.mixup=0.2", "model.ignore_index=2")
    compose_config(*TINY, "model.ignore_index=2")
