"""Wide residual networks for small images (Zagoruyko and Komodakis, arXiv:1605.07146)."""

from collections.abc import Sequence
from typing import Annotated

import torch.nn.functional as F
from torch import Tensor, nn

from image_classifier.engine.settings import Count, from_to_below, in_steps


class WideResNet(nn.Module):
    """WRN-depth-width: three groups of pre-activation blocks at full, half and quarter resolution.

    Args:
        image_shape: Channels, height, width of the input.
        num_classes: Number of logits.
        depth: Number of convolutions, 6 n + 4 for n blocks a group.
        width: Factor on the channels 16, 32, 64 of the groups.
        dropout: Probability of dropping an activation between the two convolutions of a block.

    Raises:
        UserError: The depth is not 6 n + 4, the width is not a whole number, or the dropout is no probability below 1.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        num_classes: int,
        depth: Annotated[int, in_steps(10, 6)] = 40,
        width: Count = 4,
        dropout: Annotated[float, from_to_below(0, 1)] = 0.0,
    ) -> None:
        super().__init__()
        blocks = (depth - 4) // 6
        channels = 16
        layers: list[nn.Module] = [nn.Conv2d(image_shape[0], channels, kernel_size=3, padding=1, bias=False)]
        for outputs, stride in ((16 * width, 1), (32 * width, 2), (64 * width, 2)):
            for block in range(blocks):
                layers.append(Block(channels, outputs, stride if block == 0 else 1, dropout))
                channels = outputs
        self.features = nn.Sequential(*layers, nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
        self.head = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        features = self.features(images)  # (B, C, H, W) -> (B, 64 * width, H / 4, W / 4)
        return self.head(features.mean((2, 3)))  # (B, K)


class Block(nn.Module):
    """Batch normalisation, ReLU, convolution, twice, beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.normalize = nn.BatchNorm2d(inputs)
        self.convolutions = nn.Sequential(
            nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Conv2d(outputs, outputs, kernel_size=3, padding=1, bias=False),
        )
        self.shortcut = None
        if inputs != outputs or stride != 1:
            self.shortcut = nn.Conv2d(inputs, outputs, kernel_size=1, stride=stride, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        activated = F.relu(self.normalize(images))
        shortcut = images if self.shortcut is None else self.shortcut(activated)
        return shortcut + self.convolutions(activated)
