"""A learnable image data set made from a seed: needs no files."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F

from image_classifier.data.datamodule import ImageDataModule
from image_classifier.engine.errors import UserError
from image_classifier.engine.images.batches import ImageSet
from image_classifier.engine.images.pictures import height_and_width

NOISE = 0.25  # standard deviation of the pixel noise, in units of the full range
TEST_SHARE = 0.2


class Synthetic(ImageDataModule):
    """Each class is a smooth random picture; its samples are noisy copies.

    Args:
        num_classes: Number of classes, at least 2.
        num_samples: Images in all; a fifth of them is the test set.
        image_size: Height and width in pixels: one number, or the two.
        channels: Colour channels.
        imbalance: How many times more images the most frequent class has than the rarest; 1 is balanced.
            Class sizes fall geometrically (long-tailed, as in arXiv:1901.05555).
        settings: Arguments of ImageDataModule.
    """

    def __init__(
        self,
        *,
        num_classes: int = 10,
        num_samples: int = 2000,
        image_size: int | Sequence[int] = 28,
        channels: int = 1,
        imbalance: float = 1.0,
        **settings: Any,
    ) -> None:
        if not isinstance(channels, int):
            raise UserError(f"expected data.channels to be a number for generated images but found {channels}")
        super().__init__(mean=(0.5,) * channels, std=(0.25,) * channels, **settings)
        self.class_names = tuple(f"class {index}" for index in range(num_classes))
        self.num_samples = num_samples
        self.image_shape = (channels, *height_and_width(image_size))
        self.imbalance = imbalance

    def load_train_images(self) -> ImageSet:
        return self.generate()[0]

    def load_test_images(self) -> ImageSet:
        return self.generate()[1]

    def generate(self) -> tuple[ImageSet, ImageSet]:
        return generate_images(self.num_classes, self.num_samples, self.image_shape, self.imbalance, self.seed)


@lru_cache(maxsize=2)
def generate_images(
    num_classes: int, num_samples: int, image_shape: tuple[int, int, int], imbalance: float, seed: int
) -> tuple[ImageSet, ImageSet]:
    """Make the training and the test images of `Synthetic`."""
    channels, height, width = image_shape
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(num_classes, channels, 4, 4, generator=generator)
    prototypes = F.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)  # (K, C, H, W)
    frequencies = imbalance ** -torch.linspace(0, 1, num_classes, dtype=torch.float64)
    # Evenly spaced quantiles give each class its share exactly (to a sample), and each class its first one.
    quantiles = (torch.arange(num_samples, dtype=torch.float64) + 0.5) / num_samples
    labels = torch.searchsorted((frequencies / frequencies.sum()).cumsum(0), quantiles).clamp(max=num_classes - 1)
    labels = labels[torch.randperm(num_samples, generator=generator)]
    images = torch.empty(num_samples, *image_shape, dtype=torch.uint8)
    for start in range(0, num_samples, 10_000):  # in pieces: noise in float would need four times the memory
        chosen = prototypes[labels[start : start + 10_000]]
        noise = torch.randn(chosen.shape, generator=generator)
        images[start : start + 10_000] = chosen.add_(noise, alpha=NOISE).clamp_(0, 1).mul_(255).byte()
    num_test = max(1, round(num_samples * TEST_SHARE))
    return ImageSet(images[num_test:], labels[num_test:]), ImageSet(images[:num_test], labels[:num_test])
