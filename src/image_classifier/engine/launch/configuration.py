"""Where the configuration lies, what it can interpolate, and composing it without a command, as in a notebook."""

import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import hydra
from hydra import initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from image_classifier.engine.launch.checks import check_config  # registers resolvers of its own
from image_classifier.engine.launch.templates import compose_jobs_once
from image_classifier.engine.overrides import prepare
from image_classifier.engine.project import CONFIG_DIR, PROJECT_ROOT
from image_classifier.engine.sqlite import sqlite_url
from image_classifier.engine.sweeps.jobs import job_directory
from image_classifier.engine.sweeps.objectives import optuna_direction


def compose(config_name: str = "train", overrides: Sequence[str] = ()) -> DictConfig:
    """Compose and check a configuration as a command does.

    Args:
        config_name: "train", "eval" or "predict".
        overrides: As on the command line.

    Returns:
        What `pipeline.train`, `evaluate` and `predict` take.

    Raises:
        UserError: Hydra would misread an override, or a setting is out of its range.
    """
    with initialize_config_dir(CONFIG_DIR):
        cfg = hydra.compose(config_name, overrides=prepare(overrides))
    check_config(cfg)
    return cfg


def expand_home(path: str) -> str:
    """Resolver for paths from YAML files; on the command line `~` is expanded before Hydra reads it."""
    return os.path.expanduser(path)  # noqa: PTH111  # leaves the name of an unknown user as it is


def run_directory(*, _root_: DictConfig) -> str:
    """Resolver for `paths.run_dir`: Hydra's output directory; without Hydra, one that is settled on first use."""
    if HydraConfig.initialized() and not OmegaConf.is_missing(HydraConfig.get().runtime, "output_dir"):
        return HydraConfig.get().runtime.output_dir
    parent = Path(expand_home(_root_.paths.output_dir), _root_.get("command", "train")).absolute()
    settled = OmegaConf.get_cache(_root_).setdefault("run_directory", {})  # goes with copies of the configuration
    return settled.setdefault(str(parent), str(parent / f"{datetime.now():%Y-%m-%d_%H-%M-%S-%f}"))


def single_run() -> bool:
    """Resolver for what the jobs of a sweep leave out."""
    return not (HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN)


def register_resolvers() -> None:
    """Give the configuration the functions that it interpolates; those of `checks` come with its import."""
    resolvers: dict[str, Any] = {
        "project_root": lambda: str(PROJECT_ROOT),
        "expand_home": expand_home,
        "run_directory": run_directory,
        "sqlite_url": sqlite_url,
        "single_run": single_run,
        "job_directory": job_directory,
        "optuna_direction": optuna_direction,
    }
    for name, resolver in resolvers.items():
        OmegaConf.register_resolver(name, resolver, replace=True)


register_resolvers()
compose_jobs_once()
