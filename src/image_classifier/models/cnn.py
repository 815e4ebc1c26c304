"""A small convolutional network."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn


class CNN(nn.Module):
    """Stages of convolution, batch normalisation, ReLU and 2 x 2 max-pooling, then a linear layer.

    Args:
        image_shape: Channels, height, width of the input.
        num_classes: Number of logits.
        channels: Output channels of each stage; each stage halves height and width.
    """

    def __init__(self, image_shape: Sequence[int], num_classes: int, channels: Sequence[int] = (32, 64, 128)) -> None:
        super().__init__()
        self.stages = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False),
                    nn.BatchNorm2d(outputs),
                    nn.ReLU(inplace=True),
                    nn.MaxPool2d(2, ceil_mode=True),
                )
                for inputs, outputs in pairwise((image_shape[0], *channels))
            )
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(channels[-1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        features = self.stages(images)  # (B, C, H, W) -> (B, channels[-1], H / 8, W / 8)
        return self.head(self.pool(features).flatten(1))  # (B, K)
