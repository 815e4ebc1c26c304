"""Pixels as the network sees them, and back."""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor


def normalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Turn (B, C, H, W) uint8 into float32 with mean 0 and standard deviation 1 per channel."""
    scale = torch.tensor([1 / (255 * s) for s in std], device=images.device).view(-1, 1, 1)
    offset = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=images.device).view(-1, 1, 1)
    return torch.addcmul(offset, images.float(), scale)


def to_pixels(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Undo the normalisation: (B, C, H, W) float to uint8."""
    scale = torch.tensor(std, device=images.device).view(-1, 1, 1)
    offset = torch.tensor(mean, device=images.device).view(-1, 1, 1)
    return (images.float() * scale + offset).mul(255).round().clamp(0, 255).byte()


class Normalized:
    """Batches of a single tensor each, normalised, as Lightning's `predict` takes them.

    Args:
        batches: (B, C, H, W) uint8.
        mean: Per channel, in units of the full range (0 to 1).
        std: The same.
    """

    def __init__(self, batches: Iterable[Tensor], mean: Sequence[float], std: Sequence[float]) -> None:
        self.batches = batches
        self.mean = mean
        self.std = std

    def __iter__(self) -> Iterator[tuple[Tensor]]:
        for images in self.batches:
            yield (normalize(images, self.mean, self.std),)
