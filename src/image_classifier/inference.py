"""A trained network in a notebook or in another program: `load_model(FILE).predict(IMAGES)`."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from image_classifier.engine.checkpoint import load_model as rebuild
from image_classifier.engine.checkpoint import read_checkpoint
from image_classifier.engine.images.normalization import normalize
from image_classifier.engine.images.pictures import PictureForm, decode, read_picture, turn_upright

Picture = str | Path | Image.Image | np.ndarray | Tensor


class Prediction(NamedTuple):
    """What the network says of one image."""

    class_name: str  # of the most probable class
    confidence: float  # its probability
    probabilities: dict[str, float]  # of all classes, most probable first


class TrainedModel:
    """Classifies images as `predict.py` does, in float32.

    Args:
        checkpoint: The content of a checkpoint.
        device: Where the network runs, such as "cpu" or "cuda".
    """

    def __init__(self, checkpoint: dict[str, Any], device: str = "cpu") -> None:
        recipe = checkpoint["recipe"]
        self.class_names: tuple[str, ...] = tuple(recipe["class_names"])
        self.form = PictureForm.from_recipe(recipe)
        self.mean, self.std = recipe["mean"], recipe["std"]
        self.device = torch.device(device)
        self.network = rebuild(checkpoint).float().to(self.device).eval()

    def predict(self, images: Picture | Iterable[Picture], batch_size: int = 256) -> list[Prediction]:
        """Classify images of any size.

        Args:
            images: Paths of picture files, Pillow images, or uint8 pixels: arrays (H, W) or (H, W, C), tensors
                (C, H, W); C is 1 or 3. Any iterable of them, or a single one.
            batch_size: Images that the network is shown at a time.

        Returns:
            One prediction an image, in their order.

        Raises:
            UserError: A file is no picture.
            TypeError: An image is nothing of the above.
        """
        named = []
        for row in self.probabilities(images, batch_size).tolist():
            ranked = sorted(
                zip(self.class_names, row, strict=True), key=lambda pair: -pair[1]
            )  # of equal ones the first
            named.append(Prediction(*ranked[0], dict(ranked)))
        return named

    @torch.inference_mode()
    def probabilities(self, images: Picture | Iterable[Picture], batch_size: int = 256) -> Tensor:
        """The same as numbers: (N, K) float32 on the CPU, the classes in the order of `class_names`."""
        singular = isinstance(images, str | Path | Image.Image) or is_one_image(images)
        pictures: Iterable[Any] = [images] if singular else images  # type: ignore[assignment]
        found = [torch.empty(0, len(self.class_names))]
        for group in batched(pictures, batch_size):
            pixels = torch.stack([self.pixels(picture) for picture in group]).to(self.device)
            found.append(self.network(normalize(pixels, self.mean, self.std)).softmax(1).cpu())
        return torch.cat(found)

    def pixels(self, picture: Picture) -> Tensor:
        """(C, H, W) uint8 as the network was shown in training."""
        if isinstance(picture, str | Path):
            return read_picture(Path(picture).expanduser(), self.form)
        if not isinstance(picture, Image.Image):
            return decode(to_image(picture), self.form)[0]
        upright = picture.copy()
        turn_upright(upright)
        return decode(upright, self.form)[0]


def load_model(ckpt_path: str | Path, device: str = "cpu", trusted: Sequence[str] = ()) -> TrainedModel:
    """Load a checkpoint that `train.py` wrote; neither the data nor a configuration is needed.

    Args:
        ckpt_path: Its file.
        device: Where the network is to run.
        trusted: Further names that the checkpoint may hold: networks from outside of this project.

    Raises:
        UserError: The file is none of ours, or its recipe does not fit the code.
    """
    return TrainedModel(read_checkpoint(str(Path(ckpt_path).expanduser()), trusted), device)


def is_one_image(images: Any) -> bool:
    """Whether an array or tensor is a single image rather than several."""
    if isinstance(images, np.ndarray):
        return images.ndim == 2 or (images.ndim == 3 and images.shape[-1] in (1, 3))
    return isinstance(images, Tensor) and images.ndim <= 3


def batched(pictures: Iterable[Any], size: int) -> Iterator[list[Any]]:
    remaining = iter(pictures)
    while group := list(islice(remaining, size)):
        yield group


def to_image(pixels: Any) -> Image.Image:
    """An image of mode L or RGB from uint8 pixels.

    Raises:
        TypeError: They are no such pixels.
    """
    array = pixels.cpu().numpy() if isinstance(pixels, Tensor) else pixels
    if isinstance(pixels, Tensor) and array.ndim == 3:
        array = array.transpose(1, 2, 0)  # (C, H, W) -> (H, W, C)
    if not isinstance(array, np.ndarray) or array.dtype != np.uint8:
        kind = f"{type(pixels).__name__} of {array.dtype}" if isinstance(array, np.ndarray) else type(pixels).__name__
        raise TypeError(f"Expected paths, Pillow images or uint8 pixels but got {kind}")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] == 3):
        raise TypeError(f"Expected pixels (H, W), (H, W, 1), (H, W, 3) or tensors (C, H, W) but got {array.shape}")
    return Image.fromarray(np.ascontiguousarray(array))
