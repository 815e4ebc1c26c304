"""Transforms of other libraries as augmentation: each image of a batch meets a random choice of its own."""

import difflib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Generator, Tensor
from torchvision.transforms import v2

from image_classifier.engine.errors import UserError

MIRRORING = ("RandomHorizontalFlip", "RandomVerticalFlip")  # of torchvision and of kornia


class PerImage:
    """Applies transforms to one image after the other, because those of torchvision draw one choice for a whole batch.

    The price is Python's: per image and transform some ten microseconds and more, where our own `Augmentation` takes
    one operation for the whole batch.

    Args:
        transforms: Each takes and returns an image (C, H, W) of the same shape, uint8 (0 to 255) or float (0 to 1);
            or the name of a class in `torchvision.transforms.v2` that needs no arguments. Their randomness must be
            torch's own, which is what a resumed run repeats.

    Raises:
        UserError: A name is not known, or what is no transform is given.
    """

    def __init__(self, transforms: Sequence[Callable[[Any], Any] | str]) -> None:
        self.transforms = [named(entry) if isinstance(entry, str) else entry for entry in transforms]
        for entry in self.transforms:
            if not callable(entry):
                raise UserError(
                    f"expected transforms in data.augmentation.transforms but found {entry!r}; "
                    "for example data.augmentation.transforms=[RandomHorizontalFlip]"
                )
            if isinstance(entry, v2.Normalize):
                raise UserError(
                    "expected data.augmentation.transforms without Normalize, because data.mean and data.std come "
                    "after it, but found one; leave it out"
                )

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        """Augment a batch.

        Args:
            images: (B, C, H, W) uint8.
            generator: Its seed is where the randomness starts.

        Returns:
            Images of the same shape, uint8 or float, both from 0 to 255.

        Raises:
            UserError: A transform changes the shape, or returns no tensor.
        """
        devices = [images.device] if images.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(generator.initial_seed())
            augmented = [self.augment(image) for image in images]
        batch = torch.stack(augmented)
        return batch if batch.dtype == torch.uint8 else batch * 255

    def augment(self, image: Tensor) -> Tensor:
        result: Any = image
        for transform in self.transforms:
            result = transform(result)
        if not isinstance(result, Tensor) or result.shape != image.shape:
            found = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
            raise UserError(
                f"expected data.augmentation.transforms to return images of shape {tuple(image.shape)} but found "
                f"{found}; end them with one to that size, such as RandomResizedCrop with size={list(image.shape[1:])}"
            )
        return result


def named(name: str) -> Callable[[Any], Any]:
    """A transform of `torchvision.transforms.v2` without arguments, by the name of its class."""
    known = {
        key: value for key, value in vars(v2).items() if isinstance(value, type) and issubclass(value, v2.Transform)
    }
    if name not in known:
        near = difflib.get_close_matches(name, known, 1) or ["RandomHorizontalFlip"]
        raise UserError(
            f"expected the name of a transform in torchvision.transforms.v2 but found {name}; "
            f"for example data.augmentation.transforms=[{near[0]}]"
        )
    try:
        return known[name]()
    except TypeError as error:
        raise UserError(
            f"expected a transform that needs no arguments but found {name}: {error}; give them: "
            f"'data.augmentation.transforms=[{{_target_: torchvision.transforms.v2.{name}, ...}}]'"
        ) from None


def mirroring(transforms: Sequence[Any]) -> float:
    """The highest probability by which transforms, or those inside them, mirror an image."""
    mirrors = [transform for transform in nested(transforms) if type(transform).__name__ in MIRRORING]
    return max((float(getattr(transform, "p", 1)) for transform in mirrors), default=0.0)


def nested(transforms: Sequence[Any]) -> Iterator[Any]:
    """Transforms and those inside them."""
    for transform in transforms:
        yield transform
        yield from nested(list(getattr(transform, "transforms", ())))
