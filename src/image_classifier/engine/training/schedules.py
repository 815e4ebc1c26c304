"""Learning-rate schedules that torch does not have."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def cosine_with_warmup(optimizer: Optimizer, total_steps: int, warmup: float = 0.05, final: float = 0.0) -> LambdaLR:
    """Rates that rise linearly and then fall along half a cosine (arXiv:1608.03983, after a warm-up), step by step.

    Args:
        optimizer: With the highest rates.
        total_steps: Steps of the whole training.
        warmup: Share of them with a rising rate, 0 to 1.
        final: Last rate, as a share of the highest.
    """
    rising = round(warmup * total_steps)

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / (rising + 1)
        done = (step - rising) / max(1, total_steps - 1 - rising)
        return final + (1 - final) * (1 + math.cos(math.pi * min(1.0, done))) / 2

    return LambdaLR(optimizer, factor)
