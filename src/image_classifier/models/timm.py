"""Any network of the timm library."""

from collections.abc import Sequence
from difflib import get_close_matches
from itertools import cycle, islice
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from torch import Tensor, nn

from image_classifier.engine.errors import UserError
from image_classifier.engine.hub import local_files_if_unreachable


class TimmNetwork(nn.Module):
    """A network of timm behind what adapts the images to it.

    Args:
        network: Maps (B, C', H', W') images to (B, K) logits.
        size: Height and width that images are resized to; None leaves them as they are.
        scale: (C', 1, 1) factors on the pixels; None for none. With C' = 3, grey images become three channels.
        offset: (C', 1, 1), added after `scale`.
    """

    def __init__(
        self,
        network: nn.Module,
        size: tuple[int, ...] | None = None,
        scale: Tensor | None = None,
        offset: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.size = size
        self.scale: Tensor | None
        self.offset: Tensor | None
        self.register_buffer("scale", scale)
        self.register_buffer("offset", offset)

    def forward(self, images: Tensor) -> Tensor:
        if self.size is not None and images.shape[-2:] != self.size:
            images = resize(images, self.size)
        if self.scale is not None and self.offset is not None:
            images = images * self.scale + self.offset  # (B, C', H', W')
        return self.network(images)

    def extra_repr(self) -> str:
        return "" if self.size is None else f"images resized to {in_words(self.size)}"


def timm_network(
    image_shape: Sequence[int],
    num_classes: int,
    name: str,
    pretrained: bool = False,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    load_weights: bool = True,
) -> TimmNetwork:
    """Build a network by its timm name.

    A pretrained network sees what it was trained on: images of the size, mean and standard deviation that timm
    states for it, grey ones repeated to three channels. Any other takes the images as they are; where it cannot
    (too small, or not its only size), they are resized to the size that timm states.

    Args:
        image_shape: Channels, height, width of the input.
        num_classes: Number of logits.
        name: Such as "resnet18", "convnext_atto", "efficientnet_b0"; see `timm.list_models()`.
        pretrained: Start from the published weights, downloaded on first use.
        mean: Mean per channel, in units of the full range, by which the images are normalised. For pretrained ones.
        std: Standard deviation per channel of the same normalisation.
        load_weights: False leaves the weights of a pretrained network to be loaded from a checkpoint.

    Raises:
        UserError: timm is not installed, does not know the name, has no weights of that name or cannot download
            them; or the network makes no logits of images.
    """
    channels, height, width = image_shape
    network_channels = 3 if pretrained and channels == 1 else channels
    network = create_network(name, num_classes, network_channels, pretrained=pretrained and load_weights)
    stated: dict[str, Any] = network.pretrained_cfg  # type: ignore[assignment]
    given_size, stated_size = (height, width), tuple(stated["input_size"][-2:])
    scale = offset = None
    if pretrained:
        if mean is None or std is None:
            raise UserError(f"expected the mean and std of the images for a pretrained {name} but found none")
        scale, offset = renormalization((mean, std), (stated["mean"], stated["std"]), network_channels)
    for size in [stated_size] if pretrained else [given_size, stated_size]:
        if makes_logits(network, (network_channels, *size), num_classes):
            if size == given_size:
                return TimmNetwork(network, None, scale, offset)
            rank_zero_only(print)(f"{name}: images of {in_words(given_size)} pixels are resized to {in_words(size)}")
            return TimmNetwork(network, size, scale, offset)
    raise UserError(
        f"expected a network for {channels} channels and {in_words(given_size)} or {in_words(stated_size)} pixels "
        f"but found {name}, which takes neither; choose another: model.net.name=resnet18"
    )


def in_words(size: tuple[int, ...]) -> str:
    return " x ".join(map(str, size))


def create_network(name: str, num_classes: int, channels: int, *, pretrained: bool) -> nn.Module:
    """timm's own network.

    Raises:
        UserError: timm is not installed, does not know the name, has no weights of that name or cannot download them.
    """
    try:
        import timm
    except ImportError:
        raise UserError("expected the package timm, which model=timm needs; install it: make setup-dev") from None
    if not timm.is_model(name):
        similar = ", ".join(get_close_matches(name, timm.list_models(), n=5)) or "see timm.list_models()"
        raise UserError(f"expected the name of a timm network but found {name!r}; similar ones: {similar}")
    host: str | None = None
    try:
        if not pretrained:
            return timm.create_model(name, num_classes=num_classes, in_chans=channels)
        with local_files_if_unreachable() as host:
            return timm.create_model(name, pretrained=True, num_classes=num_classes, in_chans=channels)
    except Exception as error:  # each source of weights, and each network, has exceptions of its own
        cause = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        if pretrained:
            if host is not None and not isinstance(error, RuntimeError):  # timm's own refusals say more
                cause = f"none of an earlier download, and no connection to {host}"
            raise UserError(
                f"expected the published weights of {name} but found {cause}; "
                "check the name and the connection, or start without them: model.net.pretrained=false"
            ) from error
        raise UserError(
            f"expected timm to make {name} for {channels} channels but found {cause}; choose another model.net.name"
        ) from error


def resize(images: Tensor, size: tuple[int, ...]) -> Tensor:
    """Resize (B, C, H, W) float images bilinearly, in float32 at least: torch has no half-precision kernel for it."""
    precise = images.to(torch.promote_types(images.dtype, torch.float32))
    return F.interpolate(precise, list(size), mode="bilinear", antialias=True).to(images.dtype)


def renormalization(
    given: tuple[Sequence[float], Sequence[float]], wanted: tuple[Sequence[float], Sequence[float]], channels: int
) -> tuple[Tensor, Tensor]:
    """Scale and offset, both (channels, 1, 1), that turn one normalisation (mean and std) into another.

    A statistic of fewer channels is repeated, as timm repeats the weights of a network's first layer.
    """
    (mean, std), (wanted_mean, wanted_std) = (
        [torch.tensor(list(islice(cycle(values), channels))).view(-1, 1, 1) for values in pair]
        for pair in (given, wanted)
    )
    return std / wanted_std, (mean - wanted_mean) / wanted_std


def makes_logits(network: nn.Module, image_shape: Sequence[int], num_classes: int) -> bool:
    """Whether the network, in evaluation mode, makes finite (1, K) logits of a black image of that shape."""
    network.eval()
    try:
        with torch.no_grad():
            logits = network(torch.zeros(1, *image_shape))
        return logits.shape == (1, num_classes) and bool(logits.isfinite().all())
    except Exception:  # timm's networks assert, divide by zero, index and reshape
        return False
    finally:
        network.train()
