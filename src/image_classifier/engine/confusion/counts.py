"""The K x K count matrix, accumulated batch by batch. Rows are true classes, columns predicted ones."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class ConfusionCounts(Metric):
    """Counts of (true, predicted) pairs, summed across processes.

    Args:
        num_classes: K.
        ignore_index: Samples with this target are not counted.
        settings: Arguments of torchmetrics' Metric.

    Example:
        >>> counts = ConfusionCounts(num_classes=2)
        >>> counts.update(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]))
        >>> counts.compute()
        tensor([[1, 1],
                [0, 1]])
    """

    full_state_update = False

    def __init__(self, num_classes: int, ignore_index: int = -100, **settings: Any) -> None:
        super().__init__(**settings)
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.flat_counts: Tensor
        # One more bin, the last, takes the ignored samples: filtering them out would wait for the device.
        self.add_state("flat_counts", torch.zeros(num_classes**2 + 1, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, predicted: Tensor, targets: Tensor) -> None:
        """Add a batch, without waiting for the device.

        Args:
            predicted: (B,) int64, the predicted classes.
            targets: (B,) int64, the true classes.
        """
        bins = torch.add(predicted, targets, alpha=self.num_classes)
        bins.masked_fill_(targets == self.ignore_index, self.num_classes**2)
        self.flat_counts.index_add_(0, bins, torch.ones_like(bins))

    def compute(self) -> Tensor:
        """The (K, K) int64 matrix, on the device of the batches."""
        return self.flat_counts[:-1].view(self.num_classes, self.num_classes)
