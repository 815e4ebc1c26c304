"""Outputs that are not numbers: nothing may count them as predictions."""

import pytorch_lightning as pl
from torch import Tensor

from image_classifier.engine.errors import UserError


def require_finite(logits: Tensor, images: Tensor, pl_module: pl.LightningModule, stage: str, batch_idx: int) -> None:
    """Raise UserError when some of a batch's (B, K) logits are nan or infinite.

    The largest of them would be class 0, and count as a prediction of it.
    """
    bad = ~logits.isfinite().all(1)
    if bad.any():
        raise UserError(
            f"expected finite outputs of the network but found nan or infinity for {int(bad.sum())} of "
            f"{len(bad)} images in batch {batch_idx} (from 0) of the {stage}: {why_not_finite(images, pl_module)}"
        )


def why_not_finite(images: Tensor, pl_module: pl.LightningModule) -> str:
    for name, weight in pl_module.state_dict().items():
        if weight.is_floating_point() and not weight.isfinite().all():
            return (
                f"the weights of {name.removeprefix('net.')} are not finite, the training diverged; "
                "train with a lower model.optimizer.lr, or trainer.gradient_clip_val=1.0"
            )
    if not images.isfinite().all():
        return "the images themselves are not finite; look at data.mean and data.std"
    return (
        "numbers overflowed inside the network; try trainer.precision=32-true, "
        "or train with a lower model.optimizer.lr or trainer.gradient_clip_val=1.0"
    )
