"""What a sweep optimizes: the monitored metric, or several figures at once."""

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig

DIRECTIONS = {"max": "maximize", "min": "minimize"}


def objectives(cfg: DictConfig) -> dict[str, str]:
    """Names of the optimized figures, each with "max" or "min"."""
    if cfg.get("objectives"):
        return dict(cfg.objectives)
    if cfg.get("monitor"):
        return {cfg.monitor.metric: cfg.monitor.mode}
    return {"test/acc": "max"}  # of an evaluation


def objective_values(cfg: DictConfig, metrics: Mapping[str, float]) -> Any:
    """What a sweeper gets from a job: one figure, or a tuple of them."""
    values = tuple(metrics.get(name) for name in objectives(cfg))
    return values if len(values) > 1 else values[0]


def optuna_direction(*, _root_: DictConfig) -> str | list[str]:
    """Resolver for `hydra.sweeper.direction`."""
    directions = [DIRECTIONS[mode] for mode in objectives(_root_).values()]
    return directions if len(directions) > 1 else directions[0]
