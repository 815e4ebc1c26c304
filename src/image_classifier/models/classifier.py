"""The LightningModule: any network, any optimizer, any scheduler."""

import inspect
from collections.abc import Callable
from typing import Any, TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import Metric

from image_classifier.overhead import QuickAttributes

Batch = tuple[Tensor, Tensor]


class EvaluationOutput(TypedDict):
    """What the validation and the test step hand to the callbacks."""

    logits: Tensor  # (B, K) float
    predicted: Tensor  # (B,) int64
    targets: Tensor  # (B,) int64


class LossAndAccuracy(Metric):
    """Mean loss and accuracy over an epoch, exact for batches of any size on any number of processes."""

    full_state_update = False

    def __init__(self, ignore_index: int) -> None:
        super().__init__()
        self.ignore_index = ignore_index
        # Sums of many small numbers need double precision, which Apple's GPUs lack.
        precise = torch.float32 if torch.backends.mps.is_available() else torch.float64
        self.loss_sum: Tensor
        self.correct: Tensor
        self.samples: Tensor
        self.add_state("loss_sum", torch.zeros((), dtype=precise), dist_reduce_fx="sum")
        self.add_state("correct", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("samples", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, loss_sum: Tensor, predicted: Tensor, targets: Tensor) -> None:
        """Add a batch: the sum of its losses, its (B,) predicted classes and its (B,) targets."""
        self.loss_sum += loss_sum
        counted = targets != self.ignore_index
        self.correct += ((predicted == targets) & counted).sum()
        self.samples += counted.sum()

    def compute(self) -> dict[str, Tensor]:
        return {
            "loss": (self.loss_sum / self.samples).float(),
            "acc": (self.correct / self.samples).float(),
        }


class Classifier(QuickAttributes):
    """Trains a network that maps (B, C, H, W) images to (B, K) logits.

    Args:
        net: The network.
        optimizer: Makes the optimizer from the parameters.
        scheduler: Makes the learning-rate scheduler from the optimizer. Its `total_steps` and `max_lr`
            are filled in when they are missing; one that takes `total_steps` advances every step, any
            other every epoch.
        label_smoothing: 0 to 1; for the training loss only.
        ignore_index: Samples with this target count nowhere.
        test_time_flip: In validation, test and prediction, average the logits of each image and its mirror image.
        channels_last: Keep the network's tensors in channels-last memory order.
        compile: Compile the network with `torch.compile`; checkpoints stay loadable without it.
        monitor: Metric that a scheduler such as ReduceLROnPlateau watches.
        recipe: Plain containers from which data and model can be rebuilt; saved in every checkpoint.
    """

    def __init__(
        self,
        net: nn.Module,
        optimizer: Callable[..., torch.optim.Optimizer],
        scheduler: Callable[..., Any] | None = None,
        *,
        label_smoothing: float = 0.0,
        ignore_index: int = -100,
        test_time_flip: bool = False,
        channels_last: bool = False,
        compile: bool = False,
        monitor: str = "val/acc",
        recipe: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.net = net.to(memory_format=torch.channels_last) if channels_last else net
        if compile:
            self.net.compile()  # in place: torch.compile(net) would rename the keys of the checkpoint
        self.make_optimizer = optimizer
        self.make_scheduler = scheduler
        self.label_smoothing = label_smoothing
        self.ignore_index = ignore_index
        self.test_time_flip = test_time_flip
        self.channels_last = channels_last
        self.monitor = monitor
        self.recipe = recipe
        self.totals: dict[str, LossAndAccuracy] = {}  # of the running epoch, by stage
        self.uncounted: list[tuple[Tensor, Tensor, Tensor]] = []  # loss, predicted and targets of the latest steps
        if recipe is not None:
            self.example_input_array = torch.zeros(2, *recipe["image_shape"])  # for the model summary

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K) of normalised images (B, C, H, W), as validation, test and prediction see them."""
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        logits = self.net(images)
        if self.test_time_flip:
            logits = (logits + self.net(images.flip(-1))) / 2
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, targets = batch
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        logits = self.net(images)
        loss = F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing, ignore_index=self.ignore_index)
        # No host synchronisation, no metric and no `self.log` but every few steps: each costs as much as a small layer.
        self.uncounted.append((loss.detach(), logits.detach().argmax(1), targets))
        if (self.trainer.global_step + 1) % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self.count_training_steps()
            self.log("train/loss_step", loss, prog_bar=True, on_epoch=False)
        return loss

    def count_training_steps(self) -> None:
        """Bring the totals of the training up to date."""
        if not self.uncounted:
            return
        losses, predicted, targets = zip(*self.uncounted, strict=True)
        self.uncounted.clear()
        samples = torch.stack([(batch != self.ignore_index).sum() for batch in targets])  # (steps,)
        loss_sum = (torch.stack(losses) * samples).sum()
        self.totals["train"].update(loss_sum, torch.cat(predicted), torch.cat(targets))

    def on_train_start(self) -> None:
        self.uncounted.clear()  # what a fit that was broken off has left
        self.start_totals("train")  # a run that is resumed inside an epoch never starts that epoch
        # Lightning forgets the place inside the epoch when a scheduler has asked for the number of steps before.
        self.trainer.fit_loop._load_combined_loader_states()

    def on_train_epoch_start(self) -> None:
        self.start_totals("train")

    def on_train_epoch_end(self) -> None:
        self.count_training_steps()
        self.log_totals("train")

    def validation_step(self, batch: Batch, batch_idx: int) -> EvaluationOutput:
        return self.evaluation_step("val", batch)

    def on_validation_epoch_start(self) -> None:
        self.count_training_steps()
        self.start_totals("val")

    def on_validation_epoch_end(self) -> None:
        self.log_totals("val")

    def test_step(self, batch: Batch, batch_idx: int) -> EvaluationOutput:
        return self.evaluation_step("test", batch)

    def on_test_epoch_start(self) -> None:
        self.start_totals("test")

    def on_test_epoch_end(self) -> None:
        self.log_totals("test")

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Class probabilities (B, K) of a batch whose labels are not looked at."""
        return self(batch[0]).float().softmax(1)

    def evaluation_step(self, stage: str, batch: Batch) -> EvaluationOutput:
        images, targets = batch
        logits = self(images).float()
        loss_sum = F.cross_entropy(logits, targets, ignore_index=self.ignore_index, reduction="sum")
        predicted = logits.argmax(1)
        self.totals[stage].update(loss_sum, predicted, targets)
        return {"logits": logits, "predicted": predicted, "targets": targets}

    def start_totals(self, stage: str) -> None:
        self.totals[stage] = LossAndAccuracy(self.ignore_index).to(self.device)

    def log_totals(self, stage: str) -> None:
        metrics = self.totals[stage].compute()
        in_progress_bar = stage == "val"
        self.log_dict({f"{stage}/{name}": value for name, value in metrics.items()}, prog_bar=in_progress_bar)

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(self.parameters())
        if self.make_scheduler is None:
            return optimizer
        accepted = inspect.signature(self.make_scheduler).parameters
        given = getattr(self.make_scheduler, "keywords", {})
        missing: dict[str, Any] = {}
        per_step = "total_steps" in accepted
        if per_step and given.get("total_steps") is None:
            missing["total_steps"] = int(self.trainer.estimated_stepping_batches)
            if given.get("pct_start", 0.0) * missing["total_steps"] == 1:
                missing["total_steps"] += (
                    1  # OneCycleLR divides by the length of a rise of one step, which it takes as 0
                )
        if "max_lr" in accepted and given.get("max_lr") is None:
            missing["max_lr"] = [group["lr"] for group in optimizer.param_groups]
        return {
            "optimizer": optimizer,
            "lr_scheduler": {
                "scheduler": self.make_scheduler(optimizer, **missing),
                "interval": "step" if per_step else "epoch",
                "monitor": self.monitor,
            },
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["recipe"] = self.recipe
        checkpoint["metrics"] = {
            name: float(value) for name, value in self.trainer.callback_metrics.items() if name.startswith("val/")
        }
