"""Optimizers and schedulers from their factories: what a factory leaves open is filled in from the training."""

import inspect
import math
import warnings
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from torch import Tensor
from torch.optim import Optimizer, SparseAdam
from torch.optim.lr_scheduler import ChainedScheduler, CyclicLR, OneCycleLR, ReduceLROnPlateau

from image_classifier.engine.errors import UserError

STEPWISE = (OneCycleLR, CyclicLR)  # made to advance with every optimizer step; all others with every epoch
COUNTERS = ("best", "num_bad_epochs", "cooldown_counter", "last_epoch")  # of ReduceLROnPlateau


class Span(NamedTuple):
    """How long a training is."""

    steps: float  # optimizer steps; inf when only the clock ends it
    steps_per_epoch: int

    @property
    def epochs(self) -> float:
        return self.steps if self.steps == math.inf else math.ceil(self.steps / self.steps_per_epoch)


class Schedule(NamedTuple):
    """A scheduler and when it advances."""

    scheduler: Any
    interval: str  # "step" or "epoch"
    frequency: int


def make_optimizer(factory: Callable[..., Optimizer], parameters: Iterable[Tensor], *, fused: bool) -> Optimizer:
    """Call the factory; with `fused`, one kernel updates all parameters where the optimizer has one.

    Raises:
        UserError: The optimizer refuses its arguments or these parameters.
    """
    given = getattr(factory, "keywords", {})
    fusible = "fused" in parameters_of(factory) and not any(given.get(name) for name in ("foreach", "differentiable"))
    if getattr(factory, "func", factory) is SparseAdam:
        raise UserError("expected model.optimizer to take dense gradients but found SparseAdam; use torch.optim.Adam")
    try:
        return factory(parameters, **({"fused": True} if fused and fusible and "fused" not in given else {}))
    except (TypeError, ValueError, RuntimeError) as error:
        raise refused("model.optimizer", factory, error) from error


def make_schedule(
    factory: Callable[..., Any],
    optimizer: Optimizer,
    span: Callable[[], Span],
    *,
    mode: str | None,
    interval: str | None = None,
    frequency: int = 1,
) -> Schedule:
    """Call the factory with what it leaves open: the length, the highest rate, what a plateau is a plateau of.

    Args:
        factory: A scheduler class or a partial of it; `schedulers` of SequentialLR and ChainedScheduler are factories.
        optimizer: With its initial learning rates.
        span: Length of the training; asked only where it is needed.
        mode: "max" or "min", the better direction of the monitored metric; None when it is not known.
        interval: "step" or "epoch"; None for what the scheduler is made for.
        frequency: Steps or epochs between two changes.

    Raises:
        UserError: The scheduler refuses its arguments, or ends before the training does.
    """
    kind = getattr(factory, "func", factory)
    given = dict(getattr(factory, "keywords", {}))
    takes = parameters_of(factory)
    stepwise = "total_steps" in takes or (inspect.isclass(kind) and issubclass(kind, STEPWISE))
    interval = interval or ("step" if stepwise else "epoch")

    def length() -> int:
        whole = span().steps if interval == "step" else span().epochs
        if whole == math.inf:
            raise UserError(
                f"expected a training of known length for {name_of(factory)} but found none; "
                "set trainer.max_epochs or trainer.max_steps"
            )
        return max(1, int(whole) // frequency)

    missing: dict[str, Any] = {}
    if "schedulers" in given:
        missing["schedulers"] = [part(optimizer) if callable(part) else part for part in given["schedulers"]]
    if "total_steps" in takes and given.get("total_steps") is None:
        missing |= cycle_length(given, span, length)
    if "T_max" in takes and given.get("T_max") is None:
        missing["T_max"] = length()
    if "max_lr" in takes and given.get("max_lr") is None:
        missing["max_lr"] = [group["lr"] for group in optimizer.param_groups]
    if inspect.isclass(kind) and issubclass(kind, ReduceLROnPlateau):
        missing["mode"] = plateau_mode(given.get("mode"), mode)
    try:
        scheduler = call(factory, optimizer, missing)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise refused("model.scheduler", factory, error) from error
    if not isinstance(scheduler, ReduceLROnPlateau) and (needed_by_step := required(scheduler.step)):
        raise UserError(
            f"expected model.scheduler to be stepped without arguments, as torch's are, but found {name_of(factory)}, "
            f"whose step takes {', '.join(needed_by_step)}; take one of torch.optim.lr_scheduler"
        )
    total = getattr(scheduler, "total_steps", None)
    if total is not None and total < (needed := span().steps if interval == "step" else span().epochs) // frequency:
        raise UserError(
            f"expected model.scheduler to last for the {needed:g} {interval}s of the training but found {total} for "
            f"{name_of(factory)}; leave its length out, or train for fewer epochs"
        )
    return Schedule(scheduler, interval, frequency)


def required(function: Callable[..., Any]) -> list[str]:
    """Names of the parameters that a function cannot be called without."""
    parameters = inspect.signature(function).parameters.values()
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [one.name for one in parameters if one.default is one.empty and one.kind not in variadic]


def call(factory: Callable[..., Any], optimizer: Optimizer, arguments: dict[str, Any]) -> Any:
    kind = getattr(factory, "func", factory)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The epoch parameter in `scheduler.step")  # SequentialLR's own
        if kind is ChainedScheduler:  # takes its optimizer last
            return factory(optimizer=optimizer, **arguments)
        return factory(optimizer, **arguments)


def cycle_length(given: dict[str, Any], span: Callable[[], Span], length: Callable[[], int]) -> dict[str, int]:
    """The length of OneCycleLR in its own terms: its `epochs` and `steps_per_epoch` when one of them is given."""
    if given.get("epochs") is not None or given.get("steps_per_epoch") is not None:
        whole = {"epochs": lambda: int(span().epochs), "steps_per_epoch": lambda: span().steps_per_epoch}
        return {name: fill() for name, fill in whole.items() if given.get(name) is None}
    steps = length()
    if given.get("pct_start", 0.0) * steps == 1:
        steps += 1  # OneCycleLR divides by the length of a rise of one step, which it takes as 0
    return {"total_steps": steps}


def plateau_mode(given: str | None, mode: str | None) -> str:
    """The direction of the monitored metric, which ReduceLROnPlateau would else take for a loss."""
    if given is not None and mode is not None and given != mode:
        raise UserError(
            f"expected model.scheduler.mode={mode}, the better direction of the monitored metric, but found {given}; "
            "leave it out"
        )
    return given or mode or "min"


def refit(
    optimizer: Optimizer,
    fresh: Optimizer,
    make: Callable[[Optimizer], Schedule | None],
    old: Any,
    advanced: Callable[[Schedule], int],
    *,
    keep_reductions: bool,
) -> Schedule | None:
    """Give an optimizer out of a checkpoint today's settings, and bring a new scheduler to where the training is.

    Args:
        optimizer: Keeps its state, such as momentum.
        fresh: A new optimizer of the same parameters, whose settings are taken.
        make: Makes the scheduler, or None.
        old: The scheduler out of the checkpoint.
        advanced: How often a scheduler has advanced so far.
        keep_reductions: Whether rates that ReduceLROnPlateau has reduced stay reduced.
    """
    rates = [group["lr"] for group in optimizer.param_groups]
    for group, today in zip(optimizer.param_groups, fresh.param_groups, strict=True):
        for name in set(group) - {"params"}:  # also what the old scheduler left there, such as initial_lr
            del group[name]
        group.update({name: value for name, value in today.items() if name != "params"})
    schedule = make(optimizer)
    if schedule is None:
        return None
    if isinstance(schedule.scheduler, ReduceLROnPlateau):
        for name in COUNTERS:
            setattr(schedule.scheduler, name, getattr(old, name))
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate if keep_reductions else group["lr"]
        return schedule
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that no optimizer step came before these
        for _ in range(advanced(schedule)):
            schedule.scheduler.step()
    return schedule


def parameters_of(factory: Callable[..., Any]) -> set[str]:
    return set(inspect.signature(getattr(factory, "func", factory)).parameters)


def name_of(factory: Callable[..., Any]) -> str:
    return getattr(getattr(factory, "func", factory), "__name__", str(factory))


def refused(setting: str, factory: Callable[..., Any], error: Exception) -> UserError:
    reason = " ".join(str(error).split())
    return UserError(f"expected {setting} to hold what {name_of(factory)} takes but found that it does not: {reason}")
