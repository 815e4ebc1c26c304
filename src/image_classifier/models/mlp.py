"""A plain multilayer perceptron."""

from collections.abc import Sequence
from itertools import pairwise
from math import prod

from torch import nn

from image_classifier.engine.settings import Count


class MLP(nn.Sequential):
    """Flatten, hidden layers with ReLU, and a linear layer for the logits.

    Args:
        image_shape: Channels, height, width of the input.
        num_classes: Number of logits.
        hidden_sizes: Width of each hidden layer.

    Raises:
        UserError: A width is not a whole number of at least 1.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        num_classes: int,
        hidden_sizes: Sequence[Count] = (512, 256, 128, 64, 32),
    ) -> None:
        layers: list[nn.Module] = [nn.Flatten()]  # (B, C, H, W) -> (B, C * H * W)
        for inputs, outputs in pairwise((prod(image_shape), *hidden_sizes)):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        super().__init__(*layers, nn.Linear((prod(image_shape), *hidden_sizes)[-1], num_classes))
