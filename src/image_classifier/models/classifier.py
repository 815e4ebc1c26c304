"""The LightningModule: any network, any loss, any optimizer, any schedule."""

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from image_classifier.engine.training.finite import require_finite
from image_classifier.engine.training.optimization import Optimization

Batch = tuple[Tensor, Tensor]  # images (B, C, H, W), normalised; targets (B,) classes, or (B, K) shares of classes


class Classifier(pl.LightningModule):
    """Trains a network that maps (B, C, H, W) images to (B, K) logits.

    Loss and accuracy are logged by `EpochMetrics`, from what the steps return.

    Args:
        net: The network.
        optimizer: Makes the optimizer from the parameters; None for a model that is not trained.
        scheduler: Makes the learning-rate scheduler from the optimizer; None for a constant rate.
        loss: Mean loss of (B, K) logits and (B,) classes; None for cross-entropy.
        ignore_index: Samples with this target count nowhere.
        test_time_flip: In validation, test and prediction, average the logits of each image and its mirror image.
        channels_last: Keep the network's tensors in channels-last memory order.
        compile: Compile the network with `torch.compile`; checkpoints stay loadable without it.
        schedule: Further arguments of `Optimization`.
    """

    def __init__(
        self,
        net: nn.Module,
        optimizer: Callable[..., torch.optim.Optimizer] | None = None,
        scheduler: Callable[..., Any] | None = None,
        loss: Callable[[Tensor, Tensor], Tensor] | None = None,
        *,
        ignore_index: int = -100,
        test_time_flip: bool = False,
        channels_last: bool = False,
        compile: bool = False,
        **schedule: Any,
    ) -> None:
        super().__init__()
        self.net = net.to(memory_format=torch.channels_last) if channels_last else net
        if compile:
            self.net.compile()  # in place: torch.compile(net) would rename the keys of the checkpoint
        self.loss = loss or nn.CrossEntropyLoss(ignore_index=ignore_index)
        self.ignore_index = ignore_index
        self.test_time_flip = test_time_flip
        self.channels_last = channels_last
        self.optimization = Optimization(optimizer, scheduler, **schedule)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K) of normalised images (B, C, H, W): in training, validation, test and prediction alike."""
        images = images.to(self.dtype)  # float32, but under trainer.precision=bf16-true and the like
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        logits = self.net(images)
        if self.test_time_flip and not self.training:
            logits = (logits + self.net(images.flip(-1))) / 2
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        images, targets = batch
        logits = self(images)
        loss = self.loss(logits, targets)
        if self.ignore_index >= 0:  # a mean over no sample at all is 0 / 0
            loss = loss.where((targets != self.ignore_index).any(), 0.0)
        return {"loss": loss, "logits": logits.detach(), "targets": targets}

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self(batch[0]).float()  # (B, K): what callbacks count from, converted once

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self(batch[0]).float()

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Class probabilities (B, K) of a batch whose labels are not looked at."""
        logits = self(batch[0]).float()
        require_finite(logits, batch[0], self, "prediction", batch_idx)
        return logits.softmax(1)

    def configure_optimizers(self) -> Any:
        return self.optimization.configure(self)

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        if self.optimization.is_due(scheduler):
            super().lr_scheduler_step(scheduler, metric)

    def configure_callbacks(self) -> list[pl.Callback]:
        return [self.optimization]  # it keeps the schedule in step with what is resumed
