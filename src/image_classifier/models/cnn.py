"""A small convolutional network, fast on a CPU."""

from collections.abc import Sequence

from torch import Tensor, nn

from image_classifier.engine.settings import Count


class CNN(nn.Module):
    """Stages that halve height and width, then a hidden layer on the flattened features.

    Args:
        image_shape: Channels, height, width of the input.
        num_classes: Number of logits.
        channels: Output channels of each stage.
        hidden_size: Width of the hidden layer.

    Raises:
        UserError: A size is not a whole number of at least 1.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        num_classes: int,
        channels: Sequence[Count] = (16, 32, 96),
        hidden_size: Count = 128,
    ) -> None:
        super().__init__()
        inputs, height, width = image_shape
        stages = []
        for outputs in channels:
            pool = (min(2, height), min(2, width))  # images too small to halve again keep their last pixel
            stages.append(stage(inputs, outputs, pool))
            inputs, height, width = outputs, height // pool[0], width // pool[1]
        self.stages = nn.Sequential(*stages)
        self.head = nn.Sequential(
            nn.Flatten(),  # (B, 96, 3, 3) -> (B, 864)
            nn.Linear(inputs * height * width, hidden_size, bias=False),
            nn.BatchNorm1d(hidden_size),
            nn.ReLU(inplace=True),
            nn.Linear(hidden_size, num_classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.stages(images))  # (B, C, 28, 28) -> (B, 96, 3, 3) -> (B, K)


def stage(inputs: int, outputs: int, pool: tuple[int, int]) -> nn.Sequential:
    """Convolution, pooling, batch normalisation, ReLU. Pooling first leaves a quarter of the work to the rest."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False),
        nn.MaxPool2d(pool),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )
