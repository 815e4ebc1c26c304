"""Transforms of torchvision as augmentation: per image, repeatable, in place of ours by configuration alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.transforms import v2

from image_classifier import pipeline
from image_classifier.data.augment import Augmentation
from image_classifier.data.datamodule import ImageDataModule
from image_classifier.data.transforms import PerImage
from image_classifier.engine.errors import UserError
from image_classifier.engine.launch import assembly
from tiny import TINY

LISTED = "[{_target_:torchvision.transforms.v2.RandomAffine,degrees:20,translate:[0.2,0.2]},RandomInvert]"


def generator(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(channels: int = 3) -> torch.Tensor:
    """64 times the same image, without symmetry."""
    return torch.arange(channels * 30, dtype=torch.uint8).view(1, channels, 5, 6).repeat(64, 1, 1, 1)


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_each_image_is_mirrored_by_a_choice_of_its_own(probability: float) -> None:
    images = batch()
    augmented = PerImage([v2.RandomHorizontalFlip(probability)])(images, generator())
    mirrored = [bool(torch.equal(image, images[0].flip(-1))) for image in augmented]
    kept = [bool(torch.equal(image, images[0])) for image in augmented]
    assert all(a != b for a, b in zip(mirrored, kept, strict=True))
    expected = 64 * probability
    assert abs(sum(mirrored) - expected) <= 15 * (0 < probability < 1)


@pytest.mark.parametrize(
    "transform",
    [
        v2.RandAugment(),
        v2.TrivialAugmentWide(),
        v2.AugMix(),
        v2.RandomAffine(90, (0.5, 0.5)),
        v2.RandomResizedCrop((5, 6)),
        v2.RandomCrop((5, 6), padding=2),
        v2.ColorJitter(0.5, 0.5, 0.5, 0.5),
        v2.RandomErasing(0.9),
        v2.ElasticTransform(30.0, 0.4),
        v2.RandomChoice([v2.RandomInvert(), v2.RandomGrayscale(), v2.GaussianBlur(3, (0.1, 5))]),
        v2.RandomApply([v2.RandomPosterize(2, 1.0), v2.RandomSolarize(40, 1.0)], 0.5),
    ],
    ids=lambda transform: type(transform).__name__,
)
def test_transforms_of_torchvision_vary_within_a_batch_and_repeat_with_the_seed(transform: Any) -> None:
    images = torch.randint(256, (1, 3, 5, 6), dtype=torch.uint8, generator=generator()).repeat(64, 1, 1, 1)
    augment = PerImage([transform])
    state = torch.get_rng_state()
    first, second, other = (augment(images, generator(seed)) for seed in (1, 1, 2))
    assert first.shape == images.shape and first.dtype == torch.uint8
    assert len(first.flatten(1).unique(dim=0)) > 1
    assert torch.equal(first, second) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)  # what else is random goes on as it was


def test_one_image_alone_is_what_torchvision_makes_of_it() -> None:
    image = torch.randint(256, (1, 3, 9, 9), dtype=torch.uint8)
    transform = v2.Compose([v2.RandomAffine(45), v2.ColorJitter(0.4)])
    with torch.random.fork_rng():
        torch.manual_seed(7)
        expected = transform(image[0])
    assert torch.equal(PerImage([transform])(image, generator(7))[0], expected)


def test_floats_from_0_to_1_become_what_the_normalisation_expects() -> None:
    images = batch()
    augmented = PerImage([v2.ConvertImageDtype(), v2.GaussianNoise(sigma=0.0)])(images, generator())
    assert augmented.dtype == torch.float32
    torch.testing.assert_close(augmented, images.float())


@pytest.mark.parametrize(
    ("transforms", "message"),
    [
        (
            ["RandomHorizontalFlipp"],
            r"a transform .* found RandomHorizontalFlipp; .*\.transforms=\[RandomHorizontalFlip\]",
        ),
        (["os"], r"name of a transform in torchvision\.transforms\.v2 but found os"),
        (["functional"], r"name of a transform in torchvision\.transforms\.v2 but found functional"),
        (["RandomResizedCrop"], r"needs no arguments but found RandomResizedCrop: .*size.*_target_: torchvision"),
        ([3], r"expected transforms in data\.augmentation\.transforms but found 3"),
        ([v2.Normalize([0.5], [0.5])], r"without Normalize, because data\.mean and data\.std come after"),
    ],
)
def test_what_is_no_transform_is_told(transforms: list[Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as told:
        PerImage(transforms)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("transform", "found"), [(v2.Resize((3, 3)), r"\(3, 3, 3\)"), (v2.ToPILImage(), "Image"), (v2.FiveCrop(2), "tuple")]
)
def test_transforms_that_change_the_shape_are_told(transform: Any, found: str) -> None:
    with pytest.raises(UserError, match=rf"shape \(3, 5, 6\) but found {found}; end them with .*size=\[5, 6\]"):
        PerImage([transform])(batch(), generator())


@pytest.mark.parametrize(
    ("augmentation", "flip"),
    [
        (["RandomHorizontalFlip"], 0.5),
        ([v2.RandomVerticalFlip(0.25)], 0.25),
        ([v2.Compose([v2.RandomInvert(), v2.RandomApply([v2.RandomHorizontalFlip(0.1)])])], 0.1),
        ([v2.RandomHorizontalFlip(0.0), v2.RandomInvert(1.0)], 0.0),
    ],
)
def test_flips_inside_a_list_are_known(augmentation: list[Any], flip: float) -> None:
    settings: dict[str, Any] = {"batch_size": 4, "val_size": 1, "mean": [0.5], "std": [0.5]}
    made = ImageDataModule(augmentation=augmentation, **settings).augmentation
    assert isinstance(made, Augmentation) and made.mirrors == flip
    if flip:
        with pytest.raises(UserError, match=rf"\(data\.mirror=false\) but found {flip}"):
            ImageDataModule(augmentation=augmentation, mirror=False, **settings)
    else:
        assert not ImageDataModule(augmentation=augmentation, mirror=False, **settings).mirror


def test_a_list_takes_the_place_of_ours_in_training_evaluation_and_resume(
    compose_config: Callable[..., Any], tmp_path: Path
) -> None:
    settings = [*TINY, "logger=none", "trainer.max_epochs=1", f"data.augmentation.transforms={LISTED}"]
    pipeline.train(compose_config(*settings))
    checkpoint = tmp_path / "run" / "checkpoints" / "last.ckpt"
    _, datamodule = pipeline.load_run(str(checkpoint))
    assert isinstance(datamodule.augmentation, Augmentation)
    kinds = [type(transform) for transform in datamodule.augmentation.per_image.transforms]
    assert kinds == [v2.RandomAffine, v2.RandomInvert]
    pipeline.evaluate(compose_config(f"ckpt_path={checkpoint}", config_name="eval"))
    more = [*settings, "trainer.max_epochs=2", f"ckpt_path={checkpoint}", "data.augmentation.transforms=[RandomInvert]"]
    pipeline.train(compose_config(*more))  # told, not refused


def test_ours_and_theirs_together() -> None:
    images = batch()
    both = Augmentation(flip=1.0, erase=1.0, erase_size=2, transforms=[v2.RandomInvert(1.0)])(images, generator())
    unerased = (255 - images).flip(-1)
    changed = (both != unerased).any(1)  # (B, H, W)
    assert (both[changed.unsqueeze(1).expand_as(both)] == 0).all()
    assert set(changed.sum((1, 2)).tolist()) <= {0, 1, 4} and changed.any()


def test_ours_stays_the_default(compose_config: Callable[..., Any]) -> None:
    datamodule = assembly.make_datamodule(compose_config("data=synthetic", "data.augmentation.shift=1"))
    assert isinstance(datamodule.augmentation, Augmentation) and datamodule.mix is None


@pytest.mark.parametrize("augmentation", [None, [], Augmentation(), Augmentation(erase_size=3)])
def test_no_randomness_is_made_where_nothing_is_random(augmentation: Any) -> None:
    datamodule = ImageDataModule(batch_size=4, val_size=1, mean=[0.5], std=[0.5], augmentation=augmentation)
    assert datamodule.augmentation is None and datamodule.mix is None
