"""Every network takes every image shape and class count, and learns in all of its parameters."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from image_classifier.instantiation import make
from image_classifier.models.cnn import CNN
from image_classifier.models.mlp import MLP


@pytest.mark.parametrize(("shape", "num_classes"), [((1, 28, 28), 10), ((3, 16, 10), 2), ((2, 5, 5), 101)])
@pytest.mark.parametrize("model", ["mlp", "cnn", "resnet18", "wide_resnet"])
def test_logits_and_gradients(
    compose_config: Callable[..., Any], model: str, num_classes: int, shape: tuple[int, int, int]
) -> None:
    net = make(compose_config("data=synthetic", f"model={model}").model.net, image_shape=shape, num_classes=num_classes)
    logits = net(torch.randn(3, *shape))
    assert logits.shape == (3, num_classes)
    F.cross_entropy(logits, torch.tensor([0, 1, 1])).backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


def test_large_images_can_have_the_stem_of_imagenet(compose_config: Callable[..., Any]) -> None:
    cfg = compose_config("data=synthetic", "model=resnet18", "model.net.small_images=false").model.net
    net = make(cfg, image_shape=(3, 64, 64), num_classes=10)
    assert net(torch.randn(2, 3, 64, 64)).shape == (2, 10)
    assert net.conv1.stride == (2, 2)


def test_mlp_is_the_sequence_of_its_layers() -> None:
    net = MLP((2, 3, 4), 5, hidden_sizes=[7, 6])
    images = torch.randn(8, 2, 3, 4)
    first, second, third = (layer for layer in net if isinstance(layer, torch.nn.Linear))
    hidden = F.relu(images.reshape(8, 24) @ first.weight.T + first.bias)
    hidden = F.relu(hidden @ second.weight.T + second.bias)
    torch.testing.assert_close(net(images), hidden @ third.weight.T + third.bias)
    assert sum(parameter.numel() for parameter in net.parameters()) == 25 * 7 + 8 * 6 + 7 * 5
    assert MLP((1, 28, 28), 10)[1].weight.shape == (512, 784)  # type: ignore[union-attr]


def test_cnn_survives_images_too_small_to_halve() -> None:
    assert CNN((1, 1, 2), 3, channels=[4, 4, 4]).eval()(torch.randn(2, 1, 1, 2)).shape == (2, 3)
