"""Every augmented image is the original under one flip, shift or erased square, drawn for it alone."""

import pytest
import torch
from torch import Generator, Tensor

from image_classifier.data.augment import Augmentation, random_erase, random_flip, random_shift

SHAPES = [(64, 1, 8, 8), (64, 3, 7, 10)]


def make_images(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """No pixel is 0, so that black stands for what an augmentation blackened."""
    images = torch.randint(1, 256, shape, generator=Generator().manual_seed(0))
    return images.to(dtype) / (1 if dtype == torch.uint8 else 255)


def seeded() -> Generator:
    return Generator().manual_seed(7)


@pytest.fixture(params=SHAPES, ids=["1x8x8", "3x7x10"])
def shape(request: pytest.FixtureRequest) -> tuple[int, ...]:
    return request.param


@pytest.fixture(params=[torch.uint8, torch.float32], ids=["uint8", "float32"])
def images(request: pytest.FixtureRequest, shape: tuple[int, ...]) -> Tensor:
    return make_images(shape, request.param).to(request.param)


def shifted_by_hand(image: Tensor, down: int, right: int) -> Tensor:
    """Pixel by pixel: (C, H, W) moved down and right."""
    _, height, width = image.shape
    moved = torch.zeros_like(image)
    for row in range(height):
        for column in range(width):
            if 0 <= row - down < height and 0 <= column - right < width:
                moved[:, row, column] = image[:, row - down, column - right]
    return moved


def test_each_image_is_mirrored_or_not(images: Tensor) -> None:
    result = random_flip(images, 0.5, seeded())
    mirrored = 0
    for before, after in zip(images, result, strict=True):
        reverse = torch.stack([before[..., column] for column in range(before.shape[-1] - 1, -1, -1)], -1)
        assert torch.equal(after, before) or torch.equal(after, reverse)
        mirrored += torch.equal(after, reverse)
    assert 16 < mirrored < 48  # of 64


def test_each_image_moves_by_its_own_distance(images: Tensor) -> None:
    result = random_shift(images, 2, seeded())
    met = set()
    for before, after in zip(images, result, strict=True):
        matches = [
            (down, right)
            for down in range(-2, 3)
            for right in range(-2, 3)
            if torch.equal(after, shifted_by_hand(before, down, right))
        ]
        assert len(matches) == 1
        met.add(matches[0])
    assert {down for down, _ in met} == {right for _, right in met} == {-2, -1, 0, 1, 2}


def test_erased_pixels_are_one_square(images: Tensor) -> None:
    result = random_erase(images, 0.5, 5, seeded())
    sizes = set()
    for before, after in zip(images, result, strict=True):
        erased = (after == 0).all(0)
        assert torch.equal(after[:, ~erased], before[:, ~erased])
        assert torch.equal((after == 0).any(0), erased)  # all channels alike
        rows, columns = erased.any(1).nonzero().flatten(), erased.any(0).nonzero().flatten()
        assert len(rows) == len(columns)
        sizes.add(len(rows))
        if len(rows):
            assert erased[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
            assert int(erased.sum()) == len(rows) ** 2
    assert sizes == {0, 1, 2, 3, 4, 5}


@pytest.mark.parametrize(
    "augmentation",
    [Augmentation(flip=0.5), Augmentation(shift=2), Augmentation(erase=0.7), Augmentation(0.5, 1, 0.5, 3)],
    ids=["flip", "shift", "erase", "all"],
)
def test_randomness_comes_from_the_generator_alone(images: Tensor, augmentation: Augmentation) -> None:
    original = images.clone()
    state = torch.get_rng_state()
    first = augmentation(images, seeded())
    assert torch.equal(first, augmentation(images, seeded()))
    assert not torch.equal(first, augmentation(images, Generator().manual_seed(8)))
    assert first.shape == images.shape and first.dtype == images.dtype
    assert torch.equal(images, original)
    assert torch.equal(torch.get_rng_state(), state)


def test_zero_turns_every_part_off(images: Tensor) -> None:
    assert torch.equal(Augmentation()(images, seeded()), images)


def test_certain_flip_and_erasing_larger_than_the_image(shape: tuple[int, ...]) -> None:
    images = make_images(shape, torch.uint8).to(torch.uint8)
    assert torch.equal(random_flip(images, 1.0, seeded()), images.flip(-1))
    assert torch.equal(random_flip(images, 0.0, seeded()), images)
    assert (random_erase(images, 1.0, 100, seeded()) == 0).flatten(1).any(1).all()
