"""Targets that may be soft."""

from torch import Tensor


def hard_labels(targets: Tensor) -> Tensor:
    """The label of each sample: of mixed images that of the larger part.

    Args:
        targets: (B,) int64, or (B, K) float probabilities.

    Returns:
        (B,) int64.
    """
    return targets.argmax(1) if targets.is_floating_point() else targets
