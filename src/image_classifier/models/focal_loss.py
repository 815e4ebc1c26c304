"""Focal loss: samples that are classified well count less."""

import torch
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
        """Mean loss of (B, K) logits and (B,) classes, or (B, K) shares of classes."""
        log_p = F.log_softmax(logits.float(), 1)  # (B, K)
        if targets.is_floating_point():  # the mean is over B, as in torch's CrossEntropyLoss
            shares = targets if self.weight is None else targets * self.weight
            return (shares * self.of_true_class(log_p)).sum(1).mean()
        known = targets != self.ignore_index
        targets = targets.where(known, 0)
        weights = known.float() if self.weight is None else self.weight[targets] * known
        losses = self.of_true_class(log_p.gather(1, targets[:, None]).squeeze(1))  # (B,)
        return (weights * losses).sum() / weights.sum().clamp(min=torch.finfo(losses.dtype).tiny)

    def of_true_class(self, log_p: Tensor) -> Tensor:
        return -((1 - log_p.exp()) ** self.gamma) * log_p
