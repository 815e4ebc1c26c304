"""The LightningModule: any network, any optimizer, any scheduler."""

import math
from collections.abc import Callable
from typing import Any, TypedDict

import torch
import torch.nn.functional as F
from pytorch_lightning.plugins.precision import MixedPrecision
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torchmetrics import Metric

from image_classifier.engine.errors import UserError
from image_classifier.engine.metric_modes import metric_mode
from image_classifier.engine.training.optimization import Schedule, Span, make_optimizer, make_schedule, refit
from image_classifier.engine.training.overhead import QuickAttributes
from image_classifier.engine.training.targets import hard_labels

OPTIMIZATION = ("optimizer", "scheduler", "scheduler_interval", "scheduler_frequency")  # settings in the recipe

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
        optimizer: Makes the optimizer from the parameters; None for a model that is not trained.
        scheduler: Makes the learning-rate scheduler from the optimizer. Its length and highest rate are filled in
            when they are missing.
        scheduler_interval: Whether it advances every "step" or every "epoch"; None for what it is made for.
        scheduler_frequency: Steps or epochs between two changes of the rate.
        label_smoothing: 0 to 1; for the training loss only.
        ignore_index: Samples with this target count nowhere.
        test_time_flip: In validation, test and prediction, average the logits of each image and its mirror image.
        channels_last: Keep the network's tensors in channels-last memory order.
        compile: Compile the network with `torch.compile`; checkpoints stay loadable without it.
        monitor: Metric that a scheduler such as ReduceLROnPlateau watches.
        monitor_mode: "max" or "min", its better direction; None where its name tells.
        recipe: Plain containers from which data and model can be rebuilt; saved in every checkpoint.
    """

    def __init__(
        self,
        net: nn.Module,
        optimizer: Callable[..., torch.optim.Optimizer] | None = None,
        scheduler: Callable[..., Any] | None = None,
        *,
        scheduler_interval: str | None = None,
        scheduler_frequency: int = 1,
        label_smoothing: float = 0.0,
        ignore_index: int = -100,
        test_time_flip: bool = False,
        channels_last: bool = False,
        compile: bool = False,
        monitor: str = "val/acc",
        monitor_mode: str | None = None,
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
        self.scheduler_interval = scheduler_interval
        self.scheduler_frequency = scheduler_frequency
        self.monitor = monitor
        self.monitor_mode = monitor_mode or metric_mode(monitor)
        self.recipe = recipe
        self.span: Span | None = None  # of the training, once a scheduler has asked for it
        self.validated = False  # since a plateau was last looked for
        self.resumed: dict[str, Any] | None = None  # what a checkpoint says of its optimizer and schedule
        self.totals: dict[str, LossAndAccuracy] = {}  # of the running epoch, by stage
        self.uncounted: list[tuple[Tensor, Tensor, Tensor]] = []  # loss, predicted and targets of the latest steps
        if recipe is not None:
            self.example_input_array = torch.zeros(2, *recipe["image_shape"])  # for the model summary

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K) of normalised images (B, C, H, W), as validation, test and prediction see them."""
        images = self.as_input(images)
        logits = self.net(images)
        if self.test_time_flip:
            logits = (logits + self.net(images.flip(-1))) / 2
        return logits

    def as_input(self, images: Tensor) -> Tensor:
        """Images in the memory order and, under trainer.precision=*-true, in the number format of the network."""
        images = images.to(self.dtype)
        return images.contiguous(memory_format=torch.channels_last) if self.channels_last else images

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, targets = batch
        logits = self.net(self.as_input(images))
        loss = F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing, ignore_index=self.ignore_index)
        # No host synchronisation, no metric and no `self.log` but every few steps: each costs as much as a small layer.
        self.uncounted.append((loss.detach(), logits.detach().argmax(1), hard_labels(targets)))
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
        self.follow_todays_settings()

    def on_train_epoch_start(self) -> None:
        self.start_totals("train")

    def on_train_epoch_end(self) -> None:
        self.count_training_steps()
        # With trainer.max_steps Lightning ends an epoch once more when it resumes from its end: no batch, no metric.
        if self.totals["train"].update_called:
            self.log_totals("train")

    def validation_step(self, batch: Batch, batch_idx: int) -> EvaluationOutput:
        return self.evaluation_step("val", batch, batch_idx)

    def on_validation_epoch_start(self) -> None:
        self.count_training_steps()
        self.start_totals("val")

    def on_validation_epoch_end(self) -> None:
        self.log_totals("val")
        self.validated = not self.trainer.sanity_checking

    def test_step(self, batch: Batch, batch_idx: int) -> EvaluationOutput:
        return self.evaluation_step("test", batch, batch_idx)

    def on_test_epoch_start(self) -> None:
        self.start_totals("test")

    def on_test_epoch_end(self) -> None:
        self.log_totals("test")

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Class probabilities (B, K) of a batch whose labels are not looked at."""
        return self.finite_logits("prediction", batch[0], batch_idx).softmax(1)

    def evaluation_step(self, stage: str, batch: Batch, batch_idx: int) -> EvaluationOutput:
        images, targets = batch
        logits = self.finite_logits(stage, images, batch_idx)
        loss_sum = F.cross_entropy(logits, targets, ignore_index=self.ignore_index, reduction="sum")
        predicted = logits.argmax(1)
        self.totals[stage].update(loss_sum, predicted, targets)
        return {"logits": logits, "predicted": predicted, "targets": targets}

    def finite_logits(self, stage: str, images: Tensor, batch_idx: int) -> Tensor:
        """Logits (B, K) in float32.

        Raises:
            UserError: Some are not finite. The largest of them would be class 0, and count as a prediction of it.
        """
        logits = self(images).float()
        bad = ~logits.isfinite().all(1)
        if bad.any():
            raise UserError(
                f"expected finite outputs of the network but found nan or infinity for {int(bad.sum())} of "
                f"{len(bad)} images in batch {batch_idx} (from 0) of the {stage}: {self.why_not_finite(images)}"
            )
        return logits

    def why_not_finite(self, images: Tensor) -> str:
        for name, weight in self.net.state_dict().items():
            if weight.is_floating_point() and not weight.isfinite().all():
                return (
                    f"the weights of {name} are not finite, the training diverged; "
                    "train with a lower model.optimizer.lr, or trainer.gradient_clip_val=1.0"
                )
        if not images.isfinite().all():
            return "the images themselves are not finite; look at data.mean and data.std"
        return (
            "numbers overflowed inside the network; try trainer.precision=32-true, "
            "or train with a lower model.optimizer.lr or trainer.gradient_clip_val=1.0"
        )

    def start_totals(self, stage: str) -> None:
        self.totals[stage] = LossAndAccuracy(self.ignore_index).to(self.device)

    def log_totals(self, stage: str) -> None:
        metrics = self.totals[stage].compute()
        in_progress_bar = stage == "val"
        self.log_dict({f"{stage}/{name}": value for name, value in metrics.items()}, prog_bar=in_progress_bar)

    def configure_optimizers(self) -> Any:
        optimizer = self.new_optimizer()
        schedule = self.new_schedule(optimizer)
        if schedule is None:
            return optimizer
        # Not strict: a plateau is looked at after those epochs only that had a validation (`lr_scheduler_step`).
        return {
            "optimizer": optimizer,
            "lr_scheduler": {**schedule._asdict(), "monitor": self.monitor, "strict": False},
        }

    def new_optimizer(self) -> torch.optim.Optimizer:
        assert self.make_optimizer is not None, "a model that was rebuilt from a checkpoint cannot be trained"
        # Lightning does not clip what a fused optimizer updates under automatic mixed precision.
        clips = bool(self.trainer.gradient_clip_val)
        fused = not (clips and isinstance(self.trainer.precision_plugin, MixedPrecision))
        return make_optimizer(self.make_optimizer, self.parameters(), fused=fused)

    def new_schedule(self, optimizer: torch.optim.Optimizer) -> Schedule | None:
        if self.make_scheduler is None:
            return None
        return make_schedule(
            self.make_scheduler,
            optimizer,
            self.training_span,
            mode=self.monitor_mode,
            interval=self.scheduler_interval,
            frequency=self.scheduler_frequency,
        )

    def training_span(self) -> Span:
        """How long the whole training is, remembered so that a resumed run notices another length."""
        trainer = self.trainer
        if trainer.limit_train_batches == 0:
            return Span(1, 1)
        steps = trainer.estimated_stepping_batches
        trainer.fit_loop.setup_data()  # which knows the number of batches; done already but for endless epochs
        steps_per_epoch = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
        self.span = Span(steps, steps_per_epoch)
        return self.span

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        if isinstance(scheduler, ReduceLROnPlateau):
            if not self.validated:
                return
            self.validated = False
        super().lr_scheduler_step(scheduler, metric)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.resumed = {name: checkpoint.get(name) for name in ("recipe", "span", "plateau_due", "metrics")}

    def follow_todays_settings(self) -> None:
        """After a resume: let changed settings of optimizer and scheduler, or another length, count from here on."""
        resumed, self.resumed = self.resumed, None
        if resumed is None:
            return
        configs = self.trainer.lr_scheduler_configs
        saved, today = ((recipe or {}).get("model", {}) for recipe in (resumed["recipe"], self.recipe))
        changed = any(saved.get(key) != today.get(key) for key in OPTIMIZATION) or (
            self.span is not None and resumed["span"] not in (None, list(self.span))
        )
        if changed:
            optimizer = self.trainer.optimizers[0]
            same_rate = (saved.get("optimizer") or {}).get("lr") == (today.get("optimizer") or {}).get("lr")
            old = configs[0].scheduler if configs else None
            advanced = {"step": self.steps_in_todays_terms(resumed["span"]), "epoch": self.trainer.current_epoch}
            schedule = refit(
                optimizer,
                self.new_optimizer(),
                self.new_schedule,
                old,
                lambda schedule: advanced[schedule.interval] // schedule.frequency,
                keep_reductions=same_rate,
            )
            if schedule is not None and configs:
                configs[0].scheduler, configs[0].interval, configs[0].frequency = schedule
            rates = ", ".join(f"{group['lr']:.3g}" for group in optimizer.param_groups)
            rank_zero_info_print(f"Resuming with changed settings of the optimizer or its schedule: rate {rates}")
        elif resumed["plateau_due"] and configs and isinstance(configs[0].scheduler, ReduceLROnPlateau):
            # The checkpoint was written between the validation and the look at it.
            configs[0].scheduler.step(resumed["metrics"][self.monitor])

    def steps_in_todays_terms(self, saved_span: list[int] | None) -> int:
        """Optimizer steps so far, had the epochs always had as many as they have now: another batch size changes it."""
        steps = self.trainer.global_step
        if saved_span is None or self.span is None:
            return steps
        return round(steps * self.span.steps_per_epoch / saved_span[1])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["recipe"] = self.recipe
        checkpoint["metrics"] = {
            name: float(value) for name, value in self.trainer.callback_metrics.items() if name.startswith("val/")
        }
        checkpoint["span"] = None if self.span is None else list(self.span)
        checkpoint["plateau_due"] = self.validated and self.monitor in checkpoint["metrics"]


def rank_zero_info_print(message: str) -> None:
    if getattr(rank_zero_only, "rank", 0) == 0:
        print(message, flush=True)
