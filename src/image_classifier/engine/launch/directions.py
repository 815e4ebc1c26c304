"""In which direction each watched metric is better: what watches it must not take the worse for the better."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from image_classifier.engine.errors import UserError
from image_classifier.engine.metric_modes import metric_mode
from image_classifier.engine.settings import value_at

MODES = ("max", "min")
WATCHERS = ("EarlyStopping", "Checkpoint")  # ends of names: Lightning's, and ours, which take no mode for min
PLATEAU = "ReduceLROnPlateau"
PRUNING = "image_classifier.engine.sweeps.pruning.PruningCallback"


class Watched(NamedTuple):
    """A metric that something watches, and what it takes for better."""

    setting: str  # of the direction
    metric: str
    mode: Any


def monitor_mode(name: str | None, *, _root_: DictConfig) -> str | None:
    """Resolver for what watches a metric: the direction of the run's own metric was perhaps given, by monitor.mode."""
    monitor = _root_.get("monitor") or {}
    return monitor.get("mode") if name is not None and name == monitor.get("metric") else metric_mode(name)


def check_goals(settings: Mapping[str, Any]) -> None:
    """The directions of the run's own metric and of a sweep's objectives.

    Raises:
        UserError: The name of a metric tells another one, or does not tell and none is given.
    """
    goals = [Watched("objectives", name, mode) for name, mode in (settings.get("objectives") or {}).items()]
    if value_at(settings, "monitor.metric"):
        monitor = settings["monitor"]
        mode = monitor["mode"] if "mode" in monitor else metric_mode(monitor["metric"])
        goals.append(Watched("monitor.mode", monitor["metric"], mode))
    for setting, name, mode in goals:
        known = metric_mode(name)
        if mode is None:
            raise UserError(
                f"expected monitor.mode to be max or min for monitor.metric={name}, whose name does not tell which is "
                "better, but found none; for example monitor.mode=max"
            )
        if known is not None and mode != known:
            raise UserError(f"expected {setting} to be {known} for {name} but found {mode}; leave it out")


def check_watchers(settings: Mapping[str, Any]) -> None:
    """The directions of all callbacks that watch a metric, and of the learning rate's schedule.

    Raises:
        UserError: One takes the worse for the better, or does not say which is.
    """
    for setting, name, mode in watched(settings):
        known = direction(name, settings)
        found = "none" if mode is None else mode
        if mode is None and known is None:
            raise UserError(
                f"expected {setting} to be max or min for {name}, whose name does not tell which is better, but found "
                f"none; type {setting}=max"
            )
        if known is not None and mode != known:
            raise UserError(f"expected {setting} to be {known} for {name} but found {found}; type {setting}={known}")
    check_pruning(settings)


def direction(name: str, settings: Mapping[str, Any]) -> str | None:
    """Of a metric: what was given for the run's own, else what the name tells."""
    own = value_at(settings, "monitor.mode") if name == value_at(settings, "monitor.metric") else None
    return own or metric_mode(name)


def watched(settings: Mapping[str, Any]) -> Iterator[Watched]:
    """What watches a metric, but for those of other packages whose mode is something else."""
    for part, callback in (settings.get("callbacks") or {}).items():
        if not isinstance(callback, Mapping) or not isinstance(name := callback.get("monitor"), str):
            continue
        mode = callback.get("mode")
        by_default = "mode" not in callback and direction(name, settings) == "min"  # Lightning's
        if mode in MODES or (ends_with(callback, WATCHERS) and not by_default):
            yield Watched(f"callbacks.{part}.mode", name, mode)
    name, mode = value_at(settings, "model.monitor"), value_at(settings, "model.monitor_mode")
    scheduler = value_at(settings, "model.scheduler") or {}
    asked = ends_with(scheduler, (PLATEAU,)) and not scheduler.get("mode")  # its own mode is looked at with it
    if isinstance(name, str) and (mode is not None or asked):
        yield Watched("model.monitor_mode", name, mode)


def ends_with(settings: Mapping[str, Any], names: tuple[str, ...]) -> bool:
    return str(settings.get("_target_", "")).endswith(names)


def check_pruning(settings: Mapping[str, Any]) -> None:
    """Jobs are pruned by the direction in which the study looks for its one objective."""
    goals = settings.get("objectives") or {value_at(settings, "monitor.metric"): value_at(settings, "monitor.mode")}
    for part, callback in (settings.get("callbacks") or {}).items():
        if not isinstance(callback, Mapping) or callback.get("_target_") != PRUNING or len(goals) != 1:
            continue
        ((goal, mode),) = goals.items()
        name = callback.get("monitor")
        if isinstance(name, str) and name != goal and direction(name, settings) != mode:
            raise UserError(
                f"expected callbacks.{part}.monitor to be {goal}, of which the sweep looks for the {mode}, or a metric "
                f"of the same direction but found {name}; type callbacks.{part}.monitor={goal}"
            )


OmegaConf.register_resolver("metric_mode", metric_mode, replace=True)
OmegaConf.register_resolver("monitor_mode", monitor_mode, replace=True)
