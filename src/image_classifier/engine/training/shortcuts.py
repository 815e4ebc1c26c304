"""Lightning's training loop without its detours: the same events in the same order, several times as quick.

Between two batches Lightning 2.6 makes about 1,700 calls to find out what everybody else could know beforehand: which
callbacks override which hook, what the parameters of `training_step` are called, that no profiler listens. For a small
network that takes longer than the network does (benchmarks/step.py). Here it is found out once an epoch. After each
step Lightning hands on all values that were ever logged; here it does so after those steps that log one.

What is used here is private to Lightning, version 2.6.6; tests/engine/training/test_shortcuts.py compares the two loops
to the last bit, and fails when a later version's code is another. Without this file a training takes longer and nothing
else changes: `shortcuts: false` leaves Lightning as it is.
"""

import operator
import os
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache, partial
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities import registry
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.core.hooks import DataHooks
from pytorch_lightning.core.optimizer import LightningOptimizer
from pytorch_lightning.loops.fetchers import _PrefetchDataFetcher, _profile_nothing
from pytorch_lightning.loops.optimization.automatic import Closure, ClosureResult, _AutomaticOptimization
from pytorch_lightning.loops.training_epoch_loop import _TrainingEpochLoop
from pytorch_lightning.plugins.precision import MixedPrecision, Precision
from pytorch_lightning.profilers import PassThroughProfiler
from pytorch_lightning.strategies import SingleDeviceStrategy
from pytorch_lightning.trainer.call import _call_lightning_module_hook
from pytorch_lightning.trainer.connectors.logger_connector.result import _ResultCollection
from pytorch_lightning.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor

from image_classifier.engine.terminal import say

WRITTEN_FOR = "2.6."
STEP_HOOKS = (  # of callbacks and modules, in the order in which a step calls them
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
)
TRANSFER_HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
CLIPPING_HOOKS = ("configure_gradient_clipping", "clip_gradients")
UNUSUAL = ("optimizer_step", "optimizer_zero_grad", "backward")  # a module that has one of its own goes Lightning's way


def take_shortcuts(trainer: pl.Trainer) -> None:
    """Have a trainer, before its fit, go the short way through every step that is as usual.

    Args:
        trainer: Its results are those of Lightning's own loop, bit by bit: weights, states, metrics, logs, hooks.
    """
    if not pl.__version__.startswith(WRITTEN_FOR):
        say(f"Shortcuts are left out: written for Lightning {WRITTEN_FOR}* but found {pl.__version__}")
        return
    loop = trainer.fit_loop.epoch_loop
    if type(loop) is not _TrainingEpochLoop:
        return
    trainer.fit_loop.epoch_loop = ShortLoop(trainer, loop.min_steps, loop.max_steps)  # as the Trainer makes its own
    look_for_no_driver()
    find_entry_points_once()


def look_for_no_driver() -> None:
    """Have a step of an optimizer on the processor look for a GPU without loading its driver's library anew, in vain.

    Lightning sets this variable when it is imported, so that processes can be forked after a look for GPUs.
    """
    if not torch.cuda.is_available():
        os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)


def find_entry_points_once() -> None:
    """Have the trainers to come look for callbacks of other packages where the first has found them.

    The search reads the metadata of all packages.
    """
    if not hasattr(registry.entry_points, "cache_info"):
        registry.entry_points = lru_cache(registry.entry_points)  # type: ignore[assignment]


class Plan(NamedTuple):
    """What is found out at the start of an epoch. A callback that joins later is called from the next hook on."""

    callbacks: list[pl.Callback]
    hooks: dict[str, list[Callable[..., Any]]]  # those that are overridden, by name
    module_start: Callable[..., Any] | None  # the module's own `on_train_batch_start`, whose -1 ends the epoch
    takes_index: bool  # whether `training_step` wants the index of the batch
    before_transfer: Callable[..., Any] | None
    transfer: Callable[..., Any] | None  # None: Lightning's own
    after_transfer: Callable[..., Any] | None
    device: torch.device
    context: AbstractContextManager[Any]  # of the training step: autocast, or nothing
    clips: bool  # whether the module clips gradients in a way of its own


class NotedResults(_ResultCollection):
    """Lightning's values that were logged; knows whether there are new ones since they were handed on last."""

    logged = False

    def log(self, *arguments: Any, **settings: Any) -> None:
        self.logged = True
        super().log(*arguments, **settings)


class ShortLoop(_TrainingEpochLoop):
    """Lightning's loop over the batches of an epoch, with a short way through the usual step."""

    trainer: Any
    plan: Any  # a Plan, or None for Lightning's way
    _results: Any

    def __init__(self, trainer: Any, min_steps: int | None, max_steps: int) -> None:
        super().__init__(trainer, min_steps, max_steps)
        self.plan = None
        self._results = NotedResults(training=True)

    def on_run_start(self, data_fetcher: Any) -> None:
        super().on_run_start(data_fetcher)
        self.plan = make_plan(self.trainer) if type(data_fetcher) is _PrefetchDataFetcher else None
        if self.plan is not None:
            data_fetcher._start_profiler = data_fetcher._stop_profiler = _profile_nothing

    def teardown(self) -> None:
        super().teardown()
        self.plan = None

    @property
    def done(self) -> bool:
        if (
            self.plan is None
            or self.trainer.should_stop
            or self.epoch_is_over()
            or 0 <= self.max_steps <= self.automatic_optimization.optim_progress.optimizer_steps
        ):
            return super().done
        return False

    def epoch_is_over(self) -> bool:
        """`_num_ready_batches_reached`."""
        progress = self.batch_progress
        return progress.is_last_batch or progress.current.ready == self.trainer.fit_loop.max_batches

    def advance(self, data_fetcher: Any) -> None:
        if self.plan is None or self.restarting or self.val_loop.restarting or not self.optimizes_each_batch():
            super().advance(data_fetcher)
        else:
            self.step(data_fetcher)

    def optimizes_each_batch(self) -> bool:
        """Whether this batch is a step of its own; callbacks may change that until the batch is used."""
        return bool(self.trainer.accumulate_grad_batches == 1) and not self.automatic_optimization._skip_backward

    def step(self, data_fetcher: Any) -> None:
        """`_TrainingEpochLoop.advance`."""
        trainer, progress = self.trainer, self.batch_progress
        attributes = trainer.lightning_module.__dict__  # `nn.Module.__setattr__` would search parameters and buffers
        outer = attributes["_current_fx_name"]  # the hook that `self.log` is called in
        batch, _, _ = next(data_fetcher)
        batch_idx = progress.current.ready
        progress.is_last_batch = data_fetcher.done
        batch = self.to_device(batch)
        progress.increment_ready()
        connector, results = trainer._logger_connector, self._results
        connector._first_loop_iter = connector._first_loop_iter is None  # the rest of this is its `on_batch_start`
        results.batch, results.batch_size, results.dataloader_idx = batch, None, None
        outputs: dict[str, Any] | None = None
        ended = False
        if batch is None:
            self._warning_cache.warn("train_dataloader yielded None. If this was on purpose, ignore this warning...")
        else:
            self.call("on_train_batch_start", batch, batch_idx)
            if (start := self.plan.module_start) is not None:
                attributes["_current_fx_name"] = "on_train_batch_start"
                ended = start(batch, batch_idx) == -1
            if ended:
                progress.increment_by(0, is_last_batch=True)
            else:
                progress.increment_started()
                if self.optimizes_each_batch():
                    outputs = self.optimize(batch, batch_idx)
                else:
                    arguments = self._build_kwargs(OrderedDict(), batch, batch_idx)
                    outputs = self.automatic_optimization.run(trainer.optimizers[0], batch_idx, arguments)
        progress.increment_processed()
        self.advance_schedules(batch_idx)
        if ended:
            attributes["_current_fx_name"] = outer
            raise StopIteration
        self.call("on_train_batch_end", outputs, batch, batch_idx)
        attributes["_current_fx_name"] = outer
        self.finish_logging()

    def call(self, hook: str, *arguments: Any) -> None:
        """Call those callbacks, and then the module, that override a hook."""
        callbacks = self.trainer.callbacks
        if len(self.plan.callbacks) != len(callbacks) or not all(map(operator.is_, self.plan.callbacks, callbacks)):
            self.plan = self.plan._replace(callbacks=[*callbacks], hooks=overridden_hooks(self.trainer))
        if functions := self.plan.hooks[hook]:
            self.trainer.lightning_module.__dict__["_current_fx_name"] = hook
            for function in functions:
                function(*arguments)

    def to_device(self, batch: Any) -> Any:
        """`LightningModule._apply_batch_transfer_handler`, and the hook before it."""
        plan = self.plan
        if plan.before_transfer is not None:
            batch = plan.before_transfer(batch, 0)
        if plan.transfer is not None:
            batch = plan.transfer(batch, plan.device, 0)
        elif not is_on(plan.device, batch):
            batch = self.trainer.lightning_module.transfer_batch_to_device(batch, plan.device, 0)
        elif type(batch) is list:  # hooks may change theirs, not the loader's
            batch = [*batch]
        return batch if plan.after_transfer is None else plan.after_transfer(batch, 0)

    def optimize(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        """`_AutomaticOptimization.run`, `LightningOptimizer.step` and `Precision.optimizer_step`."""
        trainer, plan = self.trainer, self.plan
        module, optimizer = trainer.lightning_module, trainer.strategy._optimizers[0]
        attributes = module.__dict__
        counters = self.automatic_optimization.optim_progress.optimizer
        outputs: dict[str, Any] | None = None  # until the closure has run

        def closure() -> Tensor | None:
            nonlocal outputs
            with torch.enable_grad():
                attributes["_current_fx_name"] = "training_step"
                with plan.context:
                    output = module.training_step(batch, batch_idx) if plan.takes_index else module.training_step(batch)
                loss, outputs = taken_apart(output)
                if loss is None:
                    Closure.warning_cache.warn(
                        "`training_step` returned `None`. If this was on purpose, ignore this warning..."
                    )
                counters.zero_grad.increment_ready()
                self.call("on_before_zero_grad", optimizer)
                counters.zero_grad.increment_started()
                attributes["_current_fx_name"] = "optimizer_zero_grad"
                optimizer.zero_grad()
                counters.zero_grad.increment_completed()
                if loss is not None:
                    self.call("on_before_backward", loss)
                    attributes["_current_fx_name"] = "backward"
                    loss.backward()
                    self.call("on_after_backward")
            self.call("on_before_optimizer_step", optimizer)
            if plan.clips or trainer.gradient_clip_val:
                clipping = {name: getattr(trainer, name) for name in ("gradient_clip_val", "gradient_clip_algorithm")}
                _call_lightning_module_hook(trainer, "configure_gradient_clipping", optimizer, **clipping)
            attributes["_current_fx_name"] = "optimizer_step"
            return outputs.get("loss")

        counters.step.increment_ready()
        attributes["_current_fx_name"] = "optimizer_step"
        optimizer.step(closure=closure)
        attributes["_current_fx_name"] = None
        counters.step.increment_completed()
        if outputs is None:
            Closure(lambda: ClosureResult(None)).consume_result()  # raises Lightning's own error, for it has not run
        return outputs or {}

    def advance_schedules(self, batch_idx: int) -> None:
        """`_update_learning_rates` but for plateaus."""
        trainer = self.trainer
        each_batch = self.optimizes_each_batch()
        if not each_batch:
            self.update_lr_schedulers("step", update_plateau_schedulers=False)
        for config in trainer.strategy.lr_scheduler_configs if each_batch else ():
            if config.interval == "step" and not config.reduce_on_plateau and (batch_idx + 1) % config.frequency == 0:
                self.scheduler_progress.increment_ready()
                trainer.lightning_module.__dict__["_current_fx_name"] = "lr_scheduler_step"
                trainer.lightning_module.lr_scheduler_step(config.scheduler, None)
                self.scheduler_progress.increment_completed()
        if self.epoch_is_over():
            self.update_lr_schedulers("epoch", update_plateau_schedulers=False)

    def finish_logging(self) -> None:
        """The end of `_TrainingEpochLoop.advance`."""
        trainer, results = self.trainer, self._results
        if results.logged:
            trainer._logger_connector.on_batch_end()
            results.logged = False
        else:  # it would hand on the same values once more
            results.batch, results.batch_size = None, None
        self.batch_progress.increment_completed()
        if self.logs_now() or trainer.fast_dev_run:
            trainer._logger_connector.update_train_step_metrics()

    def logs_now(self) -> bool:
        """`_LoggerConnector.should_update_logs`."""
        every = self.trainer.log_every_n_steps
        return every != 0 and ((self._batches_that_stepped + 1) % every == 0 or self.trainer.should_stop)

    def on_advance_end(self, data_fetcher: Any) -> None:
        trainer, progress = self.trainer, self.batch_progress
        every = trainer.val_check_batch
        if (
            self.plan is None
            or trainer.should_stop
            or trainer.received_sigterm
            or trainer.accumulate_grad_batches != 1
            or trainer._val_check_time_interval is not None
            or self._skip_next_val
            or self.epoch_is_over()
            or every in (0, float("inf"))
            or progress.current.ready % every == 0
            or progress.total.ready % every == 0
            or any(c.reduce_on_plateau and c.interval == "step" for c in trainer.strategy.lr_scheduler_configs)
        ):
            super().on_advance_end(data_fetcher)
        else:
            self._batches_that_stepped += 1


def make_plan(trainer: Any) -> Plan | None:
    """The plan of an epoch, or None where something is not as usual."""
    module: Any = trainer.lightning_module
    strategy, precision = trainer.strategy, trainer.precision_plugin
    unwrapped = strategy.model is module
    optimization = trainer.fit_loop.epoch_loop.automatic_optimization
    owners = {hook: trainer._data_connector._datahook_selector.get_instance(hook) for hook in TRANSFER_HOOKS}
    own = {hook: getattr(owner, hook) for hook, owner in owners.items() if overrides(owner, hook, DataHooks)}
    if not (
        type(strategy) is SingleDeviceStrategy
        and unwrapped
        and len(strategy._optimizers) == 1
        and not isinstance(strategy._optimizers[0], LightningOptimizer)
        and type(optimization) is _AutomaticOptimization
        and not any(map(has_methods, (strategy, precision, optimization, strategy._lightning_optimizers[0])))
        and type(precision) in (Precision, MixedPrecision)
        and getattr(precision, "scaler", None) is None
        and type(trainer.profiler) is PassThroughProfiler
        and module.automatic_optimization
        and not any(overrides(module, hook, pl.LightningModule) for hook in UNUSUAL)
        and not any(owners[hook] is module for hook in own)
    ):
        return None
    start = "on_train_batch_start"
    mixed = isinstance(precision, MixedPrecision)
    return Plan(
        callbacks=[*trainer.callbacks],
        hooks=overridden_hooks(trainer),
        module_start=getattr(module, start) if overrides(module, start, pl.LightningModule) else None,
        takes_index=is_param_in_hook_signature(module.training_step, "batch_idx", min_args=2),
        before_transfer=own.get("on_before_batch_transfer"),
        transfer=own.get("transfer_batch_to_device"),
        after_transfer=own.get("on_after_batch_transfer"),
        device=strategy.root_device,
        context=precision.autocast_context_manager() if mixed else nullcontext(),
        clips=any(overrides(module, hook, pl.LightningModule) for hook in CLIPPING_HOOKS),
    )


def has_methods(thing: Any) -> bool:
    """Whether an object has been given methods in place of those of its class."""
    return any(callable(getattr(type(thing), name, None)) for name in vars(thing))


def overridden_hooks(trainer: Any) -> dict[str, list[Callable[..., Any]]]:
    """The hooks of a step that callbacks and then the module override, ready to be called, by name."""
    module = trainer.lightning_module
    hooks: dict[str, list[Callable[..., Any]]] = {}
    for name in STEP_HOOKS:
        callbacks = [c for c in trainer.callbacks if overrides(c, name, pl.Callback) and not is_idle(c, name)]
        hooks[name] = [partial(getattr(callback, name), trainer, module) for callback in callbacks]
        if name != "on_train_batch_start" and overrides(module, name, pl.LightningModule):
            hooks[name].append(getattr(module, name))
    return hooks


def is_idle(callback: pl.Callback, hook: str) -> bool:
    """Whether a hook of a callback does nothing: a step's end in one that keeps checkpoints of whole epochs only."""
    return (
        hook == "on_train_batch_end"
        and isinstance(callback, ModelCheckpoint)
        and not overrides(callback, hook, ModelCheckpoint)
        and callback._every_n_train_steps < 1
        and callback._train_time_interval is None
    )


def taken_apart(output: Any) -> tuple[Tensor | None, dict[str, Any]]:
    """`ClosureResult.from_training_step_output`: the loss, and what hooks are given, with a copy of the loss."""
    if type(output) is dict and isinstance(loss := output.get("loss"), Tensor):
        return loss, {"loss": loss.detach().clone()} | {name: part for name, part in output.items() if name != "loss"}
    result = ClosureResult.from_training_step_output(output)
    return result.closure_loss, {} if result.loss is None else result.asdict()


def is_on(device: torch.device, batch: Any) -> bool:
    """Whether a batch lies on a device already, as far as can be told at a glance."""
    return type(batch) in (tuple, list) and all(type(part) is Tensor and part.device == device for part in batch)


def overrides(thing: Any, hook: str, base: type) -> bool:
    """Whether a callback, module or datamodule has a hook of its own, be it of its class or of this object."""
    function = getattr(thing, hook)
    return callable(function) and getattr(function, "__func__", None) is not getattr(base, hook)
