"""Gradients of bf16 convolutions against those of float32, on images narrower than the stride too."""

import pytest
import torch
from torch import nn

from image_classifier.engine.errors import UserError
from image_classifier.engine.training.convolutions import widen_narrow_images


def gradients(net: nn.Conv2d, images: torch.Tensor, mixed: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Output and gradient of the weights, when the memory that was freed before holds large numbers."""
    net.zero_grad()
    for count in (3_000, 30_000, 100_003):
        _ = [torch.full((count,), 1e30) for _ in range(3)]
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        output = net(images)
    output.backward(torch.ones_like(output))
    assert net.weight.grad is not None
    return output.detach().float(), net.weight.grad.clone()


@pytest.mark.parametrize("height", [1, 3])
@pytest.mark.parametrize("width", [1, 2, 3, 4])
@pytest.mark.parametrize("stride", [1, 2, 3, 4])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_gradients_are_those_of_float32(height: int, width: int, stride: int, kernel: int) -> None:
    torch.manual_seed(1)
    net = nn.Conv2d(48, 48, kernel, stride, kernel // 2)
    images = torch.randn(16, 48, height, width)
    expected, expected_gradient = gradients(net, images, mixed=False)
    widen_narrow_images(net)
    for _ in range(2):
        output, gradient = gradients(net, images, mixed=True)
        torch.testing.assert_close(output, expected, rtol=0.05, atol=0.05)
        torch.testing.assert_close(gradient, expected_gradient, rtol=0.05, atol=0.2)


def test_nothing_changes_without_bf16() -> None:
    net = nn.Conv2d(2, 2, 3, 2, 1)
    images = torch.randn(1, 2, 1, 1)
    expected = net(images)
    widen_narrow_images(net)
    assert torch.equal(net(images), expected)


def test_what_cannot_be_widened_is_refused() -> None:
    net = nn.Conv2d(2, 2, 2, 2, 1)
    widen_narrow_images(net)
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(UserError, match=r"trainer\.precision=32-true$"):
        net(torch.randn(1, 2, 1, 1))
