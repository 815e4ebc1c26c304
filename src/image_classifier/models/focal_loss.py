"""Focal loss: samples that are classified well count less."""

import torch.nn.functional as F
from torch import Tensor, nn


class FocalLoss(nn.Module):
    """Mean of `-(1 - p)^gamma * log p` with p the probability of the true class (arXiv:1708.02002, equation 4).

    Args:
        gamma: 0 or more; 0 is cross-entropy.
        weight: (K,) weight of each class, the paper's alpha; the mean is weighted, as in torch's CrossEntropyLoss.
        ignore_index: Samples with this target are left out.
    """

    weight: Tensor | None

    def __init__(self, gamma: float = 2.0, weight: Tensor | None = None, ignore_index: int = -100) -> None:
        super().__init__()
        self.gamma = gamma
        self.ignore_index = ignore_index
        self.register_buffer("weight", weight)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean loss of (B, K) logits and (B,) classes."""
        known = targets != self.ignore_index
        targets = targets.where(known, 0)
        log_p = F.log_softmax(logits.float(), 1).gather(1, targets[:, None]).squeeze(1)  # (B,)
        weights = known.float() if self.weight is None else self.weight[targets] * known
        losses = -((1 - log_p.exp()) ** self.gamma) * log_p
        return (weights * losses).sum() / weights.sum()
