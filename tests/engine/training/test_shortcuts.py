"""The short loop against Lightning's own: weights, states, logged values and the order of events, to the last bit."""

import hashlib
import inspect
import json
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.callbacks import (
    EarlyStopping,
    EMAWeightAveraging,
    GradientAccumulationScheduler,
    LambdaCallback,
    LearningRateMonitor,
    ModelCheckpoint,
    StochasticWeightAveraging,
    Timer,
)
from pytorch_lightning.core.optimizer import LightningOptimizer
from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.loops.fetchers import _PrefetchDataFetcher
from pytorch_lightning.loops.optimization.automatic import Closure, ClosureResult, _AutomaticOptimization
from pytorch_lightning.loops.training_epoch_loop import _TrainingEpochLoop
from pytorch_lightning.plugins.precision import MixedPrecision, Precision
from pytorch_lightning.strategies import Strategy
from pytorch_lightning.trainer import call
from pytorch_lightning.trainer.connectors.logger_connector.logger_connector import _LoggerConnector
from pytorch_lightning.trainer.connectors.logger_connector.result import _ResultCollection
from pytorch_lightning.utilities import CombinedLoader
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

from image_classifier.engine.training.shortcuts import ShortLoop, take_shortcuts

IMAGES = torch.rand(36, 784, generator=torch.Generator().manual_seed(0))
LABELS = torch.randint(10, (36,), generator=torch.Generator().manual_seed(1))
HOOKS = [name for name in dir(pl.Callback) if name.startswith("on_") and "checkpoint" not in name]
STEP_HOOKS = [name for name in HOOKS if hasattr(pl.LightningModule, name)]


def plain(value: Any) -> Any:
    """A value that `==` compares to the last bit."""
    if isinstance(value, Tensor):
        return str(value.dtype), value.shape, value.requires_grad, value.detach().double().numpy().tobytes()
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return value if isinstance(value, int | float | str | bytes | None) else type(value).__name__


class Journal(pl.Callback):
    """Notes every event with all that a callback can see then."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def note(self, hook: str, trainer: pl.Trainer, module: pl.LightningModule, *arguments: Any) -> None:
        loop = trainer.fit_loop
        progress = loop.state_dict() if trainer.state.fn == "fit" else None
        connector, results = trainer._logger_connector, trainer._results
        handed_on = (connector._callback_metrics, connector._progress_bar_metrics, connector._logged_metrics)
        of_batch = None if results is None else (results.batch is None, results.batch_size)
        seen = (module._current_fx_name, connector._first_loop_iter, trainer.global_step, plain(handed_on), of_batch)
        self.events.append((hook, seen, trainer.current_epoch, plain(progress), plain(arguments)))


for hook in HOOKS:
    if "predict" not in hook and "test" not in hook:
        setattr(Journal, hook, lambda self, *arguments, hook=hook: self.note(hook, *arguments))


class Diary(Logger):
    """Notes what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: list[Any] = []

    @property
    def name(self) -> str:
        return "diary"

    @property
    def version(self) -> str:
        return "0"

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.entries.append((step, dict(metrics)))

    def log_hyperparams(self, *arguments: Any) -> None: ...

    def save(self) -> None:
        self.entries.append("saved")

    def finalize(self, status: str) -> None:
        self.entries.append(status)


class Net(pl.LightningModule):
    """784-32-10, with a scheduler if one is given."""

    def __init__(self, scheduler: Callable[..., Any] | None = None, optimizer: Any = None, **schedule: Any) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(784, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 10))
        self.make_optimizer = optimizer or partial(torch.optim.AdamW, lr=0.01)
        self.make_scheduler, self.schedule = scheduler, schedule

    def loss(self, batch: Any) -> Tensor:
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.loss(batch)
        if batch_idx % 3 == 1:
            self.log("train/loss_step", loss, prog_bar=True, on_epoch=False)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", self.loss(batch), prog_bar=True)

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(self.parameters())
        if self.make_scheduler is None:
            return optimizer
        scheduler = self.make_scheduler(optimizer)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "monitor": "val/loss", **self.schedule},
        }


class Normalised(Net):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(784, 32), nn.BatchNorm1d(32), nn.Linear(32, 10))


class LogsEverything(Net):
    def __init__(self) -> None:
        super().__init__()
        self.accuracy = MulticlassAccuracy(10)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.loss(batch)
        self.accuracy(self.net(batch[0]), batch[1])
        self.log("both", loss, on_step=True, on_epoch=True)
        self.log("accuracy", self.accuracy, on_step=True, on_epoch=True)
        self.log_dict({"largest": loss, "index": float(batch_idx)}, reduce_fx="max", on_epoch=True)
        return {"loss": loss, "extra": batch_idx}

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.log("start", float(batch_idx))

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.log("norm", self.net[0].weight.grad.norm())

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.log("end", outputs["loss"], prog_bar=True, on_step=batch_idx > -1)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("both", self.loss(batch))


class Hooked(Net):
    """Has all hooks of a step, each of which leaves its mark on the weights."""


def nudge(self: Hooked, *arguments: Any) -> None:
    with torch.no_grad():
        self.net[0].weight.mul_(1.0001)


for hook in STEP_HOOKS:
    if "train_batch" in hook or "before" in hook or "after" in hook:
        setattr(Hooked, hook, nudge)


class Plain(torch.optim.Optimizer):
    """Calls the closure without gradients, as those do that forget about it."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": 0.1})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = closure()
        for parameter in self.param_groups[0]["params"]:
            parameter -= 0.1 * parameter.grad
        return loss


class Named(torch.optim.SGD):
    """Takes the closure by its name only."""

    def step(self, *, closure: Any) -> Any:
        return super().step(closure)


class Forgets(torch.optim.SGD):
    """Never calls the closure."""

    def step(self, closure: Any = None) -> Any: ...


class Wrapped(Net):
    def configure_optimizers(self) -> Any:
        return LightningOptimizer(torch.optim.SGD(self.parameters(), lr=0.1))


class LogsInside(Net):
    """Logs from where no hook of the module runs."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.loss(batch)
        loss.register_hook(lambda gradient: self.log("loss", gradient, on_epoch=True))
        return {"extra": 1, "loss": loss, "logits": 2}

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        optimizer.register_step_pre_hook(
            lambda optimizer, args, kwargs: self.log("pre", len(args) + 10.0 * len(kwargs))
        )
        optimizer.register_step_post_hook(lambda *_: self.log("post", 1.0))
        zero_grad = optimizer.zero_grad

        def logged(*arguments: Any) -> None:
            self.log("zero", 1.0)
            zero_grad(*arguments)

        optimizer.zero_grad = logged
        return optimizer


class Changes(Net):
    """Changes a batch that is a list where it lies."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        batch[0] = batch[0] * 2


class OwnClipGradients(Net):
    def clip_gradients(self, optimizer: Any, *arguments: Any, **settings: Any) -> None:
        super().clip_gradients(optimizer, 0.01, "norm")


@dataclass(eq=True)
class Equal(pl.Callback):
    """Equal to all others of its kind."""

    def __post_init__(self) -> None:
        self.factor = 1.0

    def on_before_optimizer_step(self, trainer: pl.Trainer, module: Any, optimizer: Any) -> None:
        module.net[0].weight.grad *= self.factor

    def on_train_batch_start(self, trainer: pl.Trainer, *arguments: Any) -> None:
        if trainer.fit_loop.total_batch_idx == 3:
            trainer.callbacks[trainer.callbacks.index(self)] = other = Equal()
            other.factor = 3.0


class EndsEarly(Net):
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        return -1 if batch_idx == 2 else None


class WithoutIndex(Net):
    def training_step(self, batch: Any) -> Tensor:
        return self.loss(batch)


class SkipsSteps(Net):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        return None if batch_idx % 2 else self.loss(batch)


class Iterates(Net):
    def training_step(self, dataloader_iter: Any) -> Tensor:
        return self.loss(next(dataloader_iter)[0])


class Manual(Net):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        for optimizer in self.optimizers():
            optimizer.zero_grad()
            self.manual_backward(self.loss(batch))
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(self.parameters(), lr=0.01), torch.optim.SGD(self.parameters(), lr=0.02)]


class ManualOne(Manual):
    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.optimizers().zero_grad()
        self.manual_backward(self.loss(batch))
        self.optimizers().step()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)


class OwnStep(Net):
    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        optimizer.step(closure=optimizer_closure)
        nudge(self)


class OwnBackward(Net):
    def backward(self, loss: Tensor, *arguments: Any) -> None:
        (2 * loss).backward()


class OwnZeroGrad(Net):
    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
        optimizer.zero_grad(set_to_none=False)


class OwnClipping(Net):
    def configure_gradient_clipping(self, optimizer: Any, gradient_clip_val: Any, gradient_clip_algorithm: Any) -> None:
        self.clip_gradients(optimizer, 0.01, "value")


class OwnTransfer(Net):
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch[0] * 2, batch[1]


class OwnSchedule(Net):
    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        scheduler.step()
        nudge(self)
        if scheduler.last_epoch == 4:
            self.log("rate", scheduler.get_last_lr()[0])  # which is not allowed here


class Data(pl.LightningDataModule):
    """Has all hooks of the way to the device."""

    def train_dataloader(self) -> Any:
        return batches()

    val_dataloader = train_dataloader

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch[0] * 2, batch[1]

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch[0] + 1, batch[1]

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch[0] * 3, batch[1]


class Stream(IterableDataset):
    def __iter__(self) -> Iterator[Any]:
        return iter(TensorDataset(IMAGES, LABELS))


class Listed:
    """A loader that is none of torch's."""

    def __init__(self, batches: Sequence[Any]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class Stop(pl.Callback):
    """Does something in a hook of one step; 3 is the fourth."""

    def __init__(self, action: Callable[[pl.Trainer], None], hook: str = "on_train_batch_end", step: int = 3) -> None:
        self.action, self.step = action, step
        setattr(self, hook, self.act)

    def act(self, trainer: pl.Trainer, *arguments: Any) -> None:
        if trainer.fit_loop.total_batch_idx == self.step:
            self.action(trainer)


def batches(size: int = 8) -> DataLoader:
    return DataLoader(TensorDataset(IMAGES, LABELS), size)  # 5 batches, the last one with 4 images


def ask_to_stop(trainer: pl.Trainer) -> None:
    trainer.should_stop = True


def interrupt(trainer: pl.Trainer) -> None:
    raise KeyboardInterrupt


def fail(trainer: pl.Trainer) -> None:
    raise RuntimeError("on purpose")


def terminate(trainer: pl.Trainer) -> None:
    trainer._signal_connector.received_sigterm = True


def add_callback(trainer: pl.Trainer) -> None:
    trainer.callbacks.append(Stop(lambda trainer: nudge(trainer.lightning_module)))


def accumulate(trainer: pl.Trainer) -> None:
    trainer.accumulate_grad_batches = 2


def take_turns(trainer: pl.Trainer) -> None:
    accumulate(trainer)
    trainer.callbacks[0].action, trainer.callbacks[0].step = accumulate_no_more, 6  # type: ignore[attr-defined]


def accumulate_no_more(trainer: pl.Trainer) -> None:
    trainer.accumulate_grad_batches = 1


def skip_backward(trainer: pl.Trainer) -> None:
    trainer.fit_loop._skip_backward = True


def wrap_step(trainer: pl.Trainer) -> None:
    """Have the optimizer that `self.optimizers()` returns do more."""
    optimizer: Any = trainer.strategy._lightning_optimizers[0]
    step = optimizer.step

    def wrapped(*arguments: Any, **settings: Any) -> Any:
        nudge(trainer.lightning_module)  # type: ignore[arg-type]
        return step(*arguments, **settings)

    optimizer.step = wrapped


def wrap_hook(owner: str, hook: str, trainer: pl.Trainer) -> None:
    """Give the strategy, the precision plugin or the loop a hook of its own."""
    optimization = trainer.fit_loop.epoch_loop.automatic_optimization
    thing = {"strategy": trainer.strategy, "precision": trainer.precision_plugin, "loop": optimization}[owner]
    function = getattr(thing, hook)

    def wrapped(*arguments: Any, **settings: Any) -> Any:
        nudge(trainer.lightning_module)  # type: ignore[arg-type]
        return function(*arguments, **settings)

    setattr(thing, hook, wrapped)


def on_fit_start(action: Callable[[pl.Trainer], None]) -> Callable[[], list[Any]]:
    return one(lambda: LambdaCallback(on_train_start=lambda trainer, module: action(trainer)))


def clip(trainer: pl.Trainer) -> None:
    trainer.gradient_clip_val = 0.001


def with_idle_hook() -> pl.Callback:
    callback = pl.Callback()
    callback.on_train_batch_end = None  # type: ignore[assignment, method-assign]
    return callback


def trace(
    short: bool,
    directory: Path,
    *,
    module: Callable[[], pl.LightningModule] = Net,
    callbacks: Callable[[], list[Any]] = list,
    data: Callable[[], Any] = batches,
    validated: bool = True,
    resumes: object = None,
    **settings: Any,
) -> tuple[dict[str, Any], int]:
    """All that a training leaves behind, and the number of steps that went the short way."""
    torch.manual_seed(1)
    bare = settings.get("barebones", False)
    journal, diary, counted = Journal(), Diary(), CountedSteps()
    settings |= {"plugins": settings["plugins"]()} if "plugins" in settings else {}
    quiet = (
        {}
        if bare
        else {
            "log_every_n_steps": 2,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
        }
    )
    checkpoints = any(isinstance(callback, ModelCheckpoint) for callback in callbacks())
    observed = {} if bare else {"logger": diary, "enable_checkpointing": checkpoints}
    defaults = {"max_epochs": 2, "accelerator": "cpu", "default_root_dir": directory}
    trainer = pl.Trainer(**defaults | quiet | observed | settings, callbacks=[*callbacks(), journal])  # type: ignore[arg-type]
    if short:
        take_shortcuts(trainer)
        counted.watch(trainer)
    model, source = module(), data()
    loaders = {"datamodule": source} if isinstance(source, pl.LightningDataModule) else {"train_dataloaders": source}
    if validated and not isinstance(source, pl.LightningDataModule):
        loaders["val_dataloaders"] = batches(30)
    error = ""
    handler = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(model, **loaders, ckpt_path=directory / "half.ckpt" if resumes else None)
    except (Exception, SystemExit) as problem:
        error = repr(problem)
    finally:
        signal.signal(signal.SIGINT, handler)
    left = {
        "error": error,
        "weights": model.state_dict(),
        "training": model.training,
        "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
        "schedulers": [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs],
        "loops": trainer.fit_loop.state_dict(),
        "logged": diary.entries,
        "metrics": [dict(trainer.callback_metrics), dict(trainer.logged_metrics), dict(trainer.progress_bar_metrics)],
        "hook": model._current_fx_name,
        "results": list(trainer.fit_loop.epoch_loop._results),
        "callbacks": [callback.state_dict() for callback in trainer.callbacks if not isinstance(callback, Timer)],
        "files": {path.name: torch.load(path, weights_only=False) for path in sorted(directory.glob("own/*.ckpt"))},
    }
    return {**plain(left), "events": journal.events}, counted.steps


class CountedSteps:
    steps = 0

    def watch(self, trainer: pl.Trainer) -> None:
        loop = trainer.fit_loop.epoch_loop
        assert type(loop) is ShortLoop
        step = loop.step

        def counting(fetcher: Any) -> None:
            self.steps += 1
            step(fetcher)

        loop.step = counting  # type: ignore[method-assign]


def one(*callbacks: Callable[[], Any]) -> Callable[[], list[Any]]:
    return lambda: [make() for make in callbacks]


OWN = "own"  # directory of checkpoints, in that of the test
USUAL: dict[str, dict[str, Any]] = {
    "defaults": {},
    "one_epoch": {"max_epochs": 1},
    "max_steps": {"max_epochs": -1, "max_steps": 7},
    "max_time": {"max_time": timedelta(microseconds=1)},
    "min_steps": {"min_steps": 6, "callbacks": one(lambda: Stop(ask_to_stop))},
    "min_epochs": {"min_epochs": 2, "max_epochs": 3, "callbacks": one(lambda: Stop(ask_to_stop))},
    "val_check_interval_0": {"val_check_interval": 0, "validated": False},
    "val_check_interval_share": {"val_check_interval": 0.25},
    "val_check_interval_count": {"val_check_interval": 3},
    "val_check_interval_across_epochs": {"val_check_interval": 3, "check_val_every_n_epoch": None},
    "val_check_interval_time": {"val_check_interval": timedelta(seconds=0)},
    "check_val_every_n_epoch": {"check_val_every_n_epoch": 2},
    "sanity_check": {"num_sanity_val_steps": 1},
    "no_validation": {"validated": False},
    "limit_train_batches_count": {"limit_train_batches": 3},
    "limit_train_batches_share": {"limit_train_batches": 0.6},
    "limit_val_batches_0": {"limit_val_batches": 0},
    "log_every_step": {"log_every_n_steps": 1},
    "log_seldom": {"log_every_n_steps": 50},
    "log_never": {"log_every_n_steps": 0},
    "no_logger": {"logger": False},
    "log_everything": {"module": LogsEverything},
    "log_everything_and_validate_often": {"module": LogsEverything, "val_check_interval": 2, "log_every_n_steps": 3},
    "clip_norm": {"gradient_clip_val": 0.1},
    "clip_value": {"gradient_clip_val": 0.001, "gradient_clip_algorithm": "value"},
    "clip_0": {"gradient_clip_val": 0},
    "clip_own": {"module": OwnClipping},
    "clip_from_the_middle": {"callbacks": one(lambda: Stop(clip))},
    "scheduler_step": {
        "module": lambda: Net(partial(lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=10), interval="step")
    },
    "scheduler_step_frequency": {
        "module": lambda: Net(partial(lr_scheduler.StepLR, step_size=1), interval="step", frequency=3)
    },
    "scheduler_epoch": {"module": lambda: Net(partial(lr_scheduler.StepLR, step_size=1), interval="epoch")},
    "scheduler_plateau_step": {
        "module": lambda: Net(partial(lr_scheduler.ReduceLROnPlateau, patience=0), interval="step", strict=False),
        "val_check_interval": 2,
    },
    "scheduler_plateau_epoch": {"module": lambda: Net(partial(lr_scheduler.ReduceLROnPlateau, patience=0))},
    "scheduler_own": {"module": lambda: OwnSchedule(partial(lr_scheduler.StepLR, step_size=1), interval="step")},
    "lbfgs": {"module": lambda: Net(optimizer=partial(torch.optim.LBFGS, lr=0.01, max_iter=3))},
    "own_optimizer": {"module": lambda: Net(optimizer=Plain)},
    "closure_by_name": {"module": lambda: Net(optimizer=partial(Named, lr=0.1))},
    "closure_not_called": {"module": lambda: Net(optimizer=partial(Forgets, lr=0.1))},
    "logs_inside": {"module": LogsInside},
    "changes_its_list": {"module": Changes, "data": lambda: Listed([[IMAGES, LABELS], [IMAGES, LABELS]])},
    "clip_gradients": {"module": OwnClipGradients},
    "equal_callback_in_its_place": {"callbacks": one(Equal)},
    "sgd_momentum_fused": {"module": lambda: Net(optimizer=partial(torch.optim.SGD, lr=0.1, momentum=0.9, fused=True))},
    "ema": {"callbacks": one(partial(EMAWeightAveraging, decay=0.9))},
    "early_stopping": {
        "max_epochs": 5,
        "callbacks": one(partial(EarlyStopping, "val/loss", patience=0, min_delta=10.0)),
    },
    "early_stopping_inside": {
        "val_check_interval": 2,
        "callbacks": one(partial(EarlyStopping, "val/loss", patience=0, min_delta=10.0)),
    },
    "rates": {
        "module": lambda: Net(partial(lr_scheduler.StepLR, step_size=1), interval="step"),
        "callbacks": one(partial(LearningRateMonitor, "step")),
        "log_every_n_steps": 3,
    },
    "checkpoints": {"callbacks": lambda: [ModelCheckpoint(OWN, "epoch_{epoch}", monitor="val/loss", save_top_k=-1)]},
    "checkpoints_by_step": {
        "callbacks": lambda: [ModelCheckpoint(OWN, "step_{step}", every_n_train_steps=3, save_top_k=-1)]
    },
    "checkpoints_by_time": {
        "callbacks": lambda: [ModelCheckpoint(OWN, "step_{step}", train_time_interval=timedelta(0), save_top_k=-1)]
    },
    "overfit_batches": {"overfit_batches": 2},
    "fast_dev_run": {"fast_dev_run": 3},
    "bf16_mixed": {"precision": "bf16-mixed"},
    "barebones": {"barebones": True, "validated": False},
    "detect_anomaly": {"detect_anomaly": True},
    "reload_every_epoch": {"reload_dataloaders_every_n_epochs": 1},
    "stop_in_batch": {"callbacks": one(lambda: Stop(ask_to_stop))},
    "stop_at_start": {"callbacks": one(lambda: Stop(ask_to_stop, "on_train_batch_start"))},
    "ended_by_hook": {"module": EndsEarly},
    "without_index": {"module": WithoutIndex},
    "skipped_steps": {"module": SkipsSteps},
    "all_hooks": {"module": Hooked},
    "interrupt": {"callbacks": one(lambda: Stop(interrupt))},
    "interrupt_before_step": {"callbacks": one(lambda: Stop(interrupt, "on_before_optimizer_step"))},
    "exception": {"callbacks": one(lambda: Stop(fail))},
    "exception_in_backward": {"callbacks": one(lambda: Stop(fail, "on_before_backward"))},
    "sigterm": {"callbacks": one(lambda: Stop(terminate))},
    "lambda_callback": {
        "callbacks": one(lambda: LambdaCallback(on_before_backward=lambda trainer, module, loss: nudge(module)))
    },
    "hook_taken_away": {"callbacks": one(with_idle_hook)},
    "callback_added": {"callbacks": one(lambda: Stop(add_callback, "on_train_batch_start"))},
    "accumulation_from_a_start": {"callbacks": one(lambda: Stop(accumulate, "on_train_batch_start"))},
    "accumulation_for_a_while": {
        "module": lambda: Net(partial(lr_scheduler.StepLR, step_size=1), interval="step"),
        "callbacks": one(lambda: Stop(take_turns, "on_train_batch_start")),
    },
    "no_backward_from_a_start": {"callbacks": one(lambda: Stop(skip_backward, "on_train_batch_start"))},
    "accumulation_from_the_middle": {"callbacks": one(lambda: Stop(accumulate))},
    "datamodule": {"data": Data},
    "batches_of_none": {"data": lambda: Listed([None, (IMAGES, LABELS), None, (IMAGES, LABELS)])},
    "tuples": {"data": lambda: Listed(list(zip(IMAGES.split(8), LABELS.split(8), strict=True)))},
    "stream": {"data": lambda: DataLoader(Stream(), 8)},
    "stream_limited": {"data": lambda: DataLoader(Stream(), 8), "limit_train_batches": 3},
    "several_loaders": {
        "data": lambda: CombinedLoader([batches(8), batches(20)], "min_size"),
        "module": type("Pairs", (Net,), {"loss": lambda self, b: Net.loss(self, b[0] if len(b[0]) == 2 else b)}),
    },
    **{
        f"resume_{hook}_{step}_validated_every_{interval}": {"resumes": (hook, step), "val_check_interval": interval}
        for hook, step, interval in [
            ("on_train_batch_start", 1, 1.0),
            ("on_train_batch_end", 3, 1.0),
            ("on_train_batch_end", 4, 1.0),
            ("on_train_batch_end", 3, 2),
            ("on_validation_end", 3, 2),
            ("on_validation_batch_end", 3, 2),
            ("on_validation_end", 4, 1.0),
            ("on_train_epoch_end", 4, 1.0),
        ]
    },
    "accumulation_later": {"callbacks": one(lambda: GradientAccumulationScheduler({0: 1, 1: 2}))},
    "swa_batch_norm": {
        "module": Normalised,
        "callbacks": one(partial(StochasticWeightAveraging, 0.05, swa_epoch_start=1)),
        "limit_train_batches": 1,
        "max_epochs": 3,
    },
    "swa": {"callbacks": one(partial(StochasticWeightAveraging, 0.05, swa_epoch_start=1)), "max_epochs": 3},
}
UNUSUAL: dict[str, dict[str, Any]] = {
    "accumulation": {"accumulate_grad_batches": 3},
    "scaled": {"plugins": partial(MixedPrecision, "16-mixed", "cpu")},
    "bf16_true": {"precision": "bf16-true"},
    "double": {"precision": "64-true"},
    "profiler": {"profiler": "simple"},
    "manual": {"module": Manual},
    "manual_one": {"module": ManualOne},
    "optimizer_step": {"module": OwnStep},
    "backward": {"module": OwnBackward},
    "zero_grad": {"module": OwnZeroGrad},
    "transfer": {"module": OwnTransfer},
    "lightnings_optimizer": {"module": Wrapped},
    "wrapped_step": {"callbacks": on_fit_start(wrap_step)},
    **{
        f"{owner}_{hook}": {"callbacks": on_fit_start(partial(wrap_hook, owner, hook))}
        for owner, hooks in {
            "strategy": ["optimizer_step", "backward", "training_step", "batch_to_device", "on_train_batch_start"],
            "precision": ["optimizer_step", "pre_backward", "forward_context", "convert_input", "clip_gradients"],
            "loop": ["run", "_make_closure"],
        }.items()
        for hook in hooks
    },
    "iterator": {"module": Iterates, "data": lambda: DataLoader(Stream(), 8)},
}

ERRORS = {
    **dict.fromkeys(["interrupt", "interrupt_before_step"], "SystemExit"),
    **dict.fromkeys(["exception", "exception_in_backward"], "RuntimeError('on purpose')"),
    "closure_not_called": "MisconfigurationException(\"The closure hasn't been executed.",
    "sigterm": "SIGTERMException",
    "scheduler_own": "MisconfigurationException(\"You can't `self.log()` inside `lr_scheduler_step`",
}


@pytest.fixture(autouse=True)
def in_its_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.sampled(every=3)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [*USUAL, *UNUSUAL])
def test_nothing_differs_from_lightnings_own_loop(name: str, tmp_path: Path) -> None:
    case = (USUAL | UNUSUAL)[name]
    if case.get("resumes"):
        checkpoint = one(
            lambda: Stop(lambda trainer: trainer.save_checkpoint(tmp_path / "half.ckpt"), *case["resumes"])
        )
        trace(False, tmp_path, **{**case, "resumes": None, "callbacks": checkpoint})
        assert (tmp_path / "half.ckpt").is_file()
    found, steps = trace(True, tmp_path, **case)
    for path in tmp_path.glob("own/*"):
        path.unlink()
    expected, _ = trace(False, tmp_path, **case)
    assert found["error"].startswith(ERRORS[name]) if name in ERRORS else not found["error"]
    for part in expected:
        assert found[part] == expected[part], part
    assert (steps > 0) == (name in USUAL)


def test_a_run_with_all_that_it_has_by_default(train: Callable[..., Path], tmp_path: Path) -> None:
    """Through the pipeline: what a run leaves behind but for times and paths."""
    found = {}
    for switch in ("true", "false"):
        run_dir = train(f"shortcuts={switch}", "logger=csv", "data.augmentation.flip=0.5", "data.mirror=true")
        checkpoints = {path.name: torch.load(path, weights_only=True) for path in run_dir.glob("checkpoints/*.ckpt")}
        for checkpoint in checkpoints.values():
            checkpoint["callbacks"] = plain(checkpoint["callbacks"])
        metrics = json.loads((run_dir / "metrics.json").read_text())
        rows = next(run_dir.rglob("metrics.csv")).read_text()
        found[switch] = plain([checkpoints, {**metrics, "fit_seconds": None}, rows])
        run_dir.rename(tmp_path / switch)
    assert found["true"] == found["false"]


def test_another_lightning_is_left_as_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    monkeypatch.setattr(pl, "__version__", "2.7.0")
    take_shortcuts(trainer)
    assert type(trainer.fit_loop.epoch_loop) is _TrainingEpochLoop
    assert capsys.readouterr().out.startswith("Shortcuts are left out")


REPLACED = [
    *(getattr(_TrainingEpochLoop, name) for name in ("run", "advance", "on_run_start", "on_advance_end", "teardown")),
    *(getattr(_TrainingEpochLoop, name) for name in ("_update_learning_rates", "_should_check_val_fx")),
    *(
        getattr(_TrainingEpochLoop, name)
        for name in ("_should_accumulate", "_num_ready_batches_reached", "_build_kwargs")
    ),
    _TrainingEpochLoop.done.fget,
    _AutomaticOptimization,
    Closure,
    ClosureResult,
    LightningOptimizer.step,
    *(getattr(Strategy, name) for name in ("training_step", "backward", "optimizer_step", "batch_to_device")),
    *(getattr(Precision, name) for name in ("pre_backward", "backward", "post_backward", "_wrap_closure")),
    *(
        getattr(Precision, name)
        for name in ("_after_closure", "optimizer_step", "_clip_gradients", "train_step_context")
    ),
    MixedPrecision.optimizer_step,
    MixedPrecision.forward_context,
    *(getattr(pl.LightningModule, name) for name in ("optimizer_step", "optimizer_zero_grad", "backward")),
    *(getattr(pl.LightningModule, name) for name in ("_call_batch_hook", "_apply_batch_transfer_handler")),
    _LoggerConnector,
    _ResultCollection,
    _PrefetchDataFetcher,
    call,
]


def test_lightnings_code_is_that_which_is_replaced() -> None:
    """When this fails, Lightning has changed: compare its code with shortcuts.py, then write down the new digest."""
    sources = "".join(inspect.getsource(part) for part in REPLACED)
    assert hashlib.sha256(sources.encode()).hexdigest()[:16] == "d37938306f3cb176"
