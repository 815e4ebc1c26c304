"""Blending pairs of training images and their labels: mixup and CutMix."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torchvision.transforms import v2


@dataclass(frozen=True)
class Mix:
    """Mixup (arXiv:1710.09412) and CutMix (arXiv:1905.04899), one choice for each batch. Zero turns one off.

    Args:
        mixup: Alpha of the Beta distribution of the blend of two images; 0.2 is usual.
        cutmix: Alpha of the Beta distribution of the area that comes from the second image; 1.0 is usual. With both,
            each batch meets one of the two.
    """

    mixup: float = 0.0
    cutmix: float = 0.0

    @property
    def active(self) -> bool:
        return self.mixup > 0 or self.cutmix > 0

    def __call__(self, images: Tensor, labels: Tensor, num_classes: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Mix each image with its neighbour in the batch.

        Args:
            images: (B, C, H, W) float.
            labels: (B,) int64, none of them without a label.
            num_classes: K.
            generator: Its seed is where the randomness starts.

        Returns:
            Images like those, and (B, K) float targets that sum to 1; the labels as they are where nothing is mixed.
        """
        kinds = [v2.MixUp(alpha=float(self.mixup), num_classes=num_classes)] if self.mixup > 0 else []
        kinds += [v2.CutMix(alpha=float(self.cutmix), num_classes=num_classes)] if self.cutmix > 0 else []
        if not kinds:
            return images, labels
        with torch.random.fork_rng([]):  # both draw on the CPU
            torch.manual_seed(generator.initial_seed())
            kind = kinds[int(torch.randint(len(kinds), ()))]
            return kind(images, labels)
