"""Optimizer and schedule of a training, from their factories, through resumes with other settings."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.plugins.precision import MixedPrecision
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from image_classifier.engine.metric_modes import metric_mode
from image_classifier.engine.terminal import say
from image_classifier.engine.training.factories import Schedule, Span, make_optimizer, make_schedule, refit
from image_classifier.engine.training.parameter_groups import parameter_groups


class Optimization(pl.Callback):
    """Makes the optimizer and its schedule, and keeps the schedule in step.

    After a resume, changed settings of either, or another length of the training, count from there on.

    Args:
        optimizer: Makes the optimizer from the parameters; None for a module that is not trained.
        scheduler: Makes the learning-rate scheduler from the optimizer. Its length and highest rate are filled in
            when they are missing. None for a constant rate.
        scheduler_interval: Whether it advances every "step" or every "epoch"; None for what it is made for.
        scheduler_frequency: Steps or epochs between two changes of the rate.
        monitor: Metric that a scheduler such as ReduceLROnPlateau watches.
        monitor_mode: "max" or "min", its better direction; None where its name tells.
        lr_factors: Learning rate of the parameters whose name matches a pattern, as a multiple of the optimizer's.
        decay_biases_and_norms: Whether weight decay also acts on biases and normalisation layers.
    """

    def __init__(
        self,
        optimizer: Callable[..., Optimizer] | None,
        scheduler: Callable[..., Any] | None = None,
        *,
        scheduler_interval: str | None = None,
        scheduler_frequency: int = 1,
        monitor: str = "val/acc",
        monitor_mode: str | None = None,
        lr_factors: dict[str, float] | None = None,
        decay_biases_and_norms: bool = True,
    ) -> None:
        self.make_optimizer = optimizer
        self.make_scheduler = scheduler
        self.interval = scheduler_interval
        self.frequency = scheduler_frequency
        self.monitor = monitor
        self.mode = monitor_mode or metric_mode(monitor)
        self.lr_factors = lr_factors
        self.decay_biases_and_norms = decay_biases_and_norms
        self.span: Span | None = None  # of the training, once a scheduler has asked for it
        self.validated = False  # since a plateau was last looked for
        self.seen: float | None = None  # the monitored metric of the checkpoint
        self.resumed: dict[str, Any] | None = None  # what a checkpoint says of its optimizer and schedule

    def configure(self, module: pl.LightningModule) -> Any:
        """What `configure_optimizers` returns."""
        optimizer = self.new_optimizer(module)
        schedule = self.new_schedule(module.trainer, optimizer)
        if schedule is None:
            return optimizer
        # Not strict: a plateau is looked at after those epochs only that had a validation (`is_due`).
        return {
            "optimizer": optimizer,
            "lr_scheduler": {**schedule._asdict(), "monitor": self.monitor, "strict": False},
        }

    def is_due(self, scheduler: Any) -> bool:
        """Whether a scheduler may advance: ReduceLROnPlateau once after each validation."""
        if not isinstance(scheduler, ReduceLROnPlateau):
            return True
        due, self.validated = self.validated, False
        return due

    def new_optimizer(self, module: pl.LightningModule) -> Optimizer:
        assert self.make_optimizer is not None, "a model that was rebuilt from a checkpoint cannot be trained"
        trainer = module.trainer
        # Lightning does not clip what a fused optimizer updates under automatic mixed precision.
        fused = not (trainer.gradient_clip_val and isinstance(trainer.precision_plugin, MixedPrecision))
        groups = parameter_groups(
            module, self.make_optimizer, self.lr_factors or {}, decay_all=self.decay_biases_and_norms
        )
        return make_optimizer(self.make_optimizer, groups, fused=fused)

    def new_schedule(self, trainer: pl.Trainer, optimizer: Optimizer) -> Schedule | None:
        if self.make_scheduler is None:
            return None
        return make_schedule(
            self.make_scheduler,
            optimizer,
            partial(self.training_span, trainer),
            mode=self.mode,
            interval=self.interval,
            frequency=self.frequency,
        )

    def training_span(self, trainer: pl.Trainer) -> Span:
        """How long the whole training is, remembered so that a resumed run notices another length."""
        if trainer.limit_train_batches == 0:
            return Span(1, 1)
        steps = trainer.estimated_stepping_batches
        trainer.fit_loop.setup_data()  # which knows the number of batches; done already but for endless epochs
        steps_per_epoch = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
        self.span = Span(steps, steps_per_epoch)
        return self.span

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.validated = not trainer.sanity_checking

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Lightning forgets the place inside the epoch when a scheduler has asked for the number of steps before.
        trainer.fit_loop._load_combined_loader_states()
        resumed, self.resumed = self.resumed, None
        if resumed is not None:
            self.follow_todays_settings(trainer, pl_module, resumed)

    def settings(self) -> dict[str, Any]:
        """What was asked for, in plain containers."""
        return {
            "optimizer": described(self.make_optimizer),
            "scheduler": described(self.make_scheduler),
            "interval": self.interval,
            "frequency": self.frequency,
            "lr_factors": self.lr_factors,
            "decay_biases_and_norms": self.decay_biases_and_norms,
        }

    def state_dict(self) -> dict[str, Any]:
        span = None if self.span is None else list(self.span)
        return {"settings": self.settings(), "span": span, "validated": self.validated}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.resumed = state_dict

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self.seen = (checkpoint.get("metrics") or {}).get(self.monitor)

    def follow_todays_settings(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, resumed: dict[str, Any]
    ) -> None:
        """Let changed settings of optimizer and scheduler, or another length, count from here on."""
        configs = trainer.lr_scheduler_configs
        saved, today = resumed["settings"], self.settings()
        other_length = self.span is not None and resumed["span"] not in (None, list(self.span))
        if saved != today or other_length:
            optimizer = trainer.optimizers[0]
            advanced = {"step": self.steps_in_todays_terms(trainer, resumed["span"]), "epoch": trainer.current_epoch}
            schedule = refit(
                optimizer,
                self.new_optimizer(pl_module),
                partial(self.new_schedule, trainer),
                configs[0].scheduler if configs else None,
                lambda schedule: advanced[schedule.interval] // schedule.frequency,
                keep_reductions=saved["optimizer"].get("lr") == today["optimizer"].get("lr"),
            )
            if schedule is not None and configs:
                configs[0].scheduler, configs[0].interval, configs[0].frequency = schedule
            if trainer.is_global_zero:
                rates = ", ".join(f"{group['lr']:.3g}" for group in optimizer.param_groups)
                say(f"Resuming with changed settings of the optimizer or its schedule: rate {rates}")
        elif resumed["validated"] and self.seen is not None:
            for config in configs:  # the checkpoint was written between the validation and the look at it
                if isinstance(config.scheduler, ReduceLROnPlateau):
                    config.scheduler.step(self.seen)

    def steps_in_todays_terms(self, trainer: pl.Trainer, saved_span: list[int] | None) -> int:
        """Optimizer steps so far, had the epochs always had as many as they have now: another batch size changes it."""
        if saved_span is None or self.span is None:
            return trainer.global_step
        return round(trainer.global_step * self.span.steps_per_epoch / saved_span[1])


def described(factory: Any) -> Any:
    """A factory in plain containers: its full name and the arguments that it was given."""
    if isinstance(factory, partial):
        return {
            "_target_": described(factory.func),
            **{key: described(value) for key, value in factory.keywords.items()},
        }
    if isinstance(factory, list | tuple):
        return [described(item) for item in factory]
    if isinstance(factory, dict):
        return {key: described(value) for key, value in factory.items()}
    if callable(factory):
        return f"{factory.__module__}.{getattr(factory, '__qualname__', type(factory).__qualname__)}"
    return factory if isinstance(factory, str | int | float | bool | None) else repr(factory)
