"""Keeps bf16 convolutions on processors from learning from memory that nobody has written.

oneDNN's kernel for the gradient of the weights (torch 2.15, AVX-512 and AMX) reads past the end of an image that is
narrower than the stride, as in the last stages of a network for larger images. The gradients are arbitrary, often
infinite.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from image_classifier.engine.errors import UserError


def widen_narrow_images(net: nn.Module) -> None:
    """Have the convolutions of a network add columns of zeros where images are narrower than the stride."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d) and module.stride[1] > 1:
            module.register_forward_pre_hook(widen)


def widen(convolution: nn.Conv2d, inputs: tuple[Any, ...]) -> tuple[Tensor] | None:
    """A forward pre-hook: columns that the convolution would pad with zeros anyway, so that its output is the same."""
    images: Tensor = inputs[0]  # (B, C, H, W)
    width, stride = images.shape[-1], convolution.stride[1]
    if width >= stride or images.device.type != "cpu" or not is_bf16(images):
        return None
    if not isinstance(convolution.padding, tuple) or convolution.padding[1] == 0 or convolution.padding_mode != "zeros":
        return None
    if columns(convolution, width) != columns(convolution, stride):
        raise UserError(
            f"expected images that are at least as wide as the stride ({stride}) of the convolution "
            f"but found {width}, for which torch's bf16 gradients are wrong; use trainer.precision=32-true"
        )
    return (F.pad(images, (0, stride - width)),)


def columns(convolution: nn.Conv2d, width: int) -> int:
    """Width of the output."""
    kernel = convolution.dilation[1] * (convolution.kernel_size[1] - 1) + 1
    return (width + 2 * int(convolution.padding[1]) - kernel) // convolution.stride[1] + 1


def is_bf16(images: Tensor) -> bool:
    if torch.is_autocast_enabled("cpu"):
        return torch.get_autocast_dtype("cpu") is torch.bfloat16
    return images.dtype is torch.bfloat16
