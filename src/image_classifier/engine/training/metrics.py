"""The metrics of training, validation and test, exact over batches of any size and any number of processes."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

from image_classifier.engine.confusion.matrix import unique_slugs
from image_classifier.engine.errors import UserError
from image_classifier.engine.terminal import say
from image_classifier.engine.training.dry_run import check_logits
from image_classifier.engine.training.finite import require_finite
from image_classifier.engine.training.stages import Outputs, StageCallback, ignored_label

SUMS = ("loss_sum", "correct", "samples")


class LossAndAccuracy(Metric):
    """Mean loss and accuracy over an epoch. A mean of the batches' means would be wrong where their sizes differ."""

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

    def load(self, sums: Mapping[str, float]) -> None:
        """Go on from sums out of a checkpoint."""
        for name in SUMS:
            getattr(self, name).fill_(sums[name])
        self._update_count = 1  # of torchmetrics: else `compute` warns that nothing was counted

    def compute(self) -> dict[str, Tensor]:
        return {
            "loss": (self.loss_sum / self.samples).float(),
            "acc": (self.correct / self.samples).float(),
        }


class EpochMetrics(StageCallback):
    """Logs `<stage>/loss` and `<stage>/acc` of train, val and test, and further metrics of val and test.

    `train/loss` is the mean of what is minimised. `val/loss` and `test/loss` are the mean cross-entropy of the true
    class in nats, whatever is minimised, so that runs with different losses can be compared.

    Args:
        metrics: Metrics of torchmetrics under the names that they are logged by: `<stage>/<name>`. They are given
            (B, K) probabilities and (B,) classes. One value for each class is logged as `<stage>/<name>/<class>`.
    """

    def __init__(self, metrics: Mapping[str, Metric] | None = None) -> None:
        super().__init__(("val", "test"))
        self.metrics = dict(metrics or {})
        self.totals: dict[str, LossAndAccuracy] = {}  # of the running epoch, by stage
        self.uncounted: list[tuple[Tensor, Tensor, Tensor]] = []  # loss, predicted and targets of the latest steps
        self.knows_predictions = True  # in training
        self.told: set[str] = set()  # names of metrics that the module logs, too
        self.resumed: dict[str, float] = {}  # sums of the epoch that a checkpoint was written in

    def start(self, stage: str, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.count_training_steps()
        self.totals[stage] = LossAndAccuracy(ignored_label(pl_module)).to(pl_module.device)
        for metric in self.metrics.values():
            metric.to(pl_module.device).reset()

    def collect(self, stage: str, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Outputs) -> None:
        if (names := getattr(getattr(trainer, "datamodule", None), "class_names", None)) is not None:
            check_logits(outputs.logits, len(outputs.targets), len(names))
        require_finite(outputs.logits, outputs.images, pl_module, stage, outputs.batch_idx)
        ignored = ignored_label(pl_module)
        loss_sum = F.cross_entropy(outputs.logits, outputs.targets, ignore_index=ignored, reduction="sum")
        self.totals[stage].update(loss_sum, outputs.predicted, outputs.targets)
        if self.metrics:
            self.update_metrics(outputs, ignored)

    def update_metrics(self, outputs: Outputs, ignored: int) -> None:
        known = outputs.targets != ignored
        probabilities, targets = outputs.logits.softmax(1)[known], outputs.targets[known]
        for name, metric in self.metrics.items():
            two_classes = type(metric).__name__.startswith("Binary")
            try:
                metric.update(probabilities[:, 1] if two_classes else probabilities, targets)
            except (TypeError, ValueError, RuntimeError) as error:
                raise refused(name, error) from error

    def finish(self, stage: str, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.tell_of_others(stage, trainer)
        self.log_totals(stage, pl_module)
        class_names = getattr(trainer.datamodule, "class_names", ())  # type: ignore[attr-defined]
        for name, metric in self.metrics.items():
            pl_module.log_dict(values_of(f"{stage}/{name}", metric, class_names))

    def tell_of_others(self, stage: str, trainer: pl.Trainer) -> None:
        """Tell, once, which values of the module are not kept because they have the names of those that follow."""
        names = {f"{stage}/loss", f"{stage}/acc"}
        entries = trainer._results.values() if trainer._results else ()
        logged = {entry.meta.name for entry in entries if entry.meta.fx.endswith("_step")}
        if taken := sorted((names & logged) - self.told):
            self.told.update(taken)
            say(f"What the module logs as {', '.join(taken)} is not kept: the project counts these; use another name")

    def log_totals(self, stage: str, pl_module: pl.LightningModule) -> None:
        figures = {f"{stage}/{name}": value for name, value in self.totals[stage].compute().items()}
        if stage == "train" and not self.knows_predictions:
            del figures["train/acc"]
        pl_module.log_dict(figures, prog_bar=stage == "val")

    # Training: a step keeps its loss and predictions, and they are counted every few steps. A metric or a `self.log`
    # in each step would cost as much as a small layer.

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.uncounted.clear()  # what a fit that was broken off has left
        self.new_training_totals(pl_module)
        resumed, self.resumed = self.resumed, {}
        if resumed and trainer.is_global_zero:  # they are the sums over all processes
            self.totals["train"].load(resumed)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.new_training_totals(pl_module)

    def new_training_totals(self, pl_module: pl.LightningModule) -> None:
        self.totals["train"] = LossAndAccuracy(ignored_label(pl_module)).to(pl_module.device)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not outputs or "loss" not in outputs:  # a step without a loss, or a batch of None
            return
        targets = outputs.get("targets", batch[1])
        # Soft targets: the class with most of it. A copy, because a loader may write its next batch over this one.
        classes = targets.clone() if targets.ndim == 1 else targets.argmax(1)
        loss = outputs["loss"].detach()
        if trainer.accumulate_grad_batches != 1:  # Lightning hands over the loss divided by them
            loss = loss * trainer.accumulate_grad_batches
        self.uncounted.append((loss, self.predictions(outputs, classes), classes))
        if trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self.count_training_steps()
            pl_module.log("train/loss_step", loss, prog_bar=True, on_epoch=False)

    def predictions(self, outputs: Any, classes: Tensor) -> Tensor:
        """(B,) predicted classes of a training step; a module that does not return its logits has no accuracy."""
        self.knows_predictions = "logits" in outputs
        return outputs["logits"].argmax(1) if self.knows_predictions else classes

    def count_training_steps(self) -> None:
        """Bring the totals of the training up to date."""
        if not self.uncounted:
            return
        losses, predicted, targets = zip(*self.uncounted, strict=True)
        self.uncounted.clear()
        totals = self.totals["train"]
        samples = torch.stack([(batch != totals.ignore_index).sum() for batch in targets])  # (steps,)
        loss_sum = (torch.stack(losses).to(totals.loss_sum.dtype) * samples).sum()  # wherever a checkpoint divides them
        totals.update(loss_sum, torch.cat(predicted), torch.cat(targets))

    def state_dict(self) -> dict[str, Any]:
        """The sums of the running epoch over all processes, for a resume inside it."""
        self.count_training_steps()
        totals = self.totals.get("train")
        if totals is None or not totals.update_called:
            return {}
        sums = torch.stack([getattr(totals, name).double() for name in SUMS])
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(sums)
        return dict(zip(SUMS, sums.tolist(), strict=True))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.resumed = state_dict

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.count_training_steps()
        if self.totals["train"].update_called:
            self.log_totals("train", pl_module)


def values_of(key: str, metric: Metric, class_names: Sequence[str]) -> dict[str, Tensor]:
    """A metric's value under its key, or one value for each class under `<key>/<class>`.

    Raises:
        UserError: It computes something else, such as a curve.
    """
    value = metric.compute()  # over the samples of all processes
    if isinstance(value, Tensor) and value.numel() == 1:
        return {key: value.float().reshape(())}
    if isinstance(value, Tensor) and value.shape == (len(class_names),):
        return {f"{key}/{name}": single for name, single in zip(unique_slugs(class_names), value.float(), strict=True)}
    name = key.rpartition("/")[2]
    raise UserError(
        f"expected metrics.{name} to compute a number, or one for each class, but found "
        f"{type(metric).__name__}, which computes {type(value).__name__}; leave it out"
    )


def refused(name: str, error: Exception) -> UserError:
    reason = " ".join(str(error).split())
    return UserError(f"expected metrics.{name} to take probabilities and classes but found that it does not: {reason}")
