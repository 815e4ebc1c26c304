"""Where the configuration lies, what it can interpolate, and composing it without a command, as in a notebook."""

import os
import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import hydra
from hydra import initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from image_classifier.engine.errors import UserError
from image_classifier.engine.launch.checks import check_config  # registers resolvers of its own
from image_classifier.engine.launch.overrides import prepare
from image_classifier.engine.project import CONFIG_DIR, PROJECT_ROOT
from image_classifier.engine.sweeps.jobs import job_directory
from image_classifier.engine.sweeps.objectives import optuna_direction

SQLITE_PATH = 500  # bytes; SQLite takes 512, with the names of its temporary files


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


def sqlite_url(path: str) -> str:
    """Resolver for the URL of a database in a file: SQLAlchemy decodes `%` and cuts at `?`, Optuna formats braces.

    Raises:
        UserError: The path is longer than SQLite takes.
    """
    if len(os.fsencode(Path(path).absolute())) > SQLITE_PATH:
        raise UserError(f"expected a path of at most {SQLITE_PATH} bytes for a database but found {path}; move it")
    return "sqlite:///" + re.sub(r"[%?{}]", lambda found: f"%{ord(found.group()):02X}", path)


OmegaConf.register_resolver("project_root", lambda: str(PROJECT_ROOT), replace=True)
OmegaConf.register_resolver("expand_home", expand_home, replace=True)
OmegaConf.register_resolver("run_directory", run_directory, replace=True)
OmegaConf.register_resolver("sqlite_url", sqlite_url, replace=True)
OmegaConf.register_resolver("job_directory", job_directory, replace=True)
OmegaConf.register_resolver("optuna_direction", optuna_direction, replace=True)
