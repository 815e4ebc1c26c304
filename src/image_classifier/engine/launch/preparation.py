"""What comes before a run: seeds, precision, the saved configuration, and silence of the libraries."""

import logging
import warnings
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf, open_dict
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from image_classifier.engine.launch.checks import check_config, settle_paths
from image_classifier.engine.launch.command_line import command_line
from image_classifier.engine.launch.resume import flatten
from image_classifier.engine.runs.files import write_atomically
from image_classifier.engine.runs.provenance import git_commit
from image_classifier.engine.secrets import hidden
from image_classifier.engine.terminal import say
from image_classifier.engine.training.precision import fastest_precision

for name in ("pytorch_lightning", "lightning_fabric"):
    logging.getLogger(name).setLevel(logging.WARNING)  # their notices bury ours
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # that it lists the fonts, once
logging.getLogger("pytorch_lightning.profilers").setLevel(logging.INFO)  # debug=profiler: its table is asked for
warnings.filterwarnings("ignore", message="`isinstance\\(treespec, LeafSpec\\)` is deprecated")
warnings.filterwarnings("ignore", message="The number of training batches .* is smaller than the logging interval")
warnings.filterwarnings("ignore", message="It is recommended to use .*sync_dist=True")  # our metrics are synchronized
warnings.filterwarnings("ignore", message="ReduceLROnPlateau conditioned on metric")  # rarer validations are allowed
warnings.filterwarnings("ignore", message="Early stopping conditioned on metric")
warnings.filterwarnings("ignore", message="Precision .* is not supported by the model summary")  # of its megabytes
warnings.filterwarnings("ignore", message="The dirpath has changed")  # BestCheckpoint knows the earlier best
warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")  # a run that goes on
warnings.filterwarnings("ignore", message="The `srun` command is available on your system but is not used")


def settle(cfg: DictConfig) -> None:
    """Check the configuration, as the commands have done, and write paths out; for callers in Python."""
    settle_paths(cfg)
    check_config(cfg)


def prepare_run(cfg: DictConfig, precision: Any = None) -> None:
    """Seed everything, and save the resolved configuration.

    Args:
        cfg: The configuration.
        precision: That of the training whose checkpoint is tested or resumed: what null and auto stand for.
    """
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    torch.use_deterministic_algorithms(False)  # Lightning sets it for the process: not for the next job of a multirun
    torch.set_float32_matmul_precision("high")  # TF32 on GPUs that have it
    with open_dict(cfg):
        if cfg.trainer.precision is None or (cfg.trainer.precision == "auto" and precision):
            cfg.trainer.precision = precision
    save_config(cfg)


def settle_precision(cfg: DictConfig, model: pl.LightningModule, recipe: dict[str, Any]) -> None:
    """Replace `trainer.precision=auto` by what is fastest for this model, in the saved configuration and the recipe.

    Args:
        cfg: The configuration.
        model: What is trained.
        recipe: For the checkpoints.
    """
    if cfg.trainer.precision == "auto":
        with open_dict(cfg):
            cfg.trainer.precision = fastest_precision(model, cfg.data.batch_size, cfg.trainer.accelerator)
        say(f"Precision: {cfg.trainer.precision} (chosen by trainer.precision=auto)")
        save_config(cfg)
    recipe["precision"] = cfg.trainer.precision


def save_config(cfg: DictConfig) -> None:
    if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
        settings = OmegaConf.to_container(cfg, resolve=True)
        shown = hidden(settings)
        run_dir = cfg.paths.run_dir
        if shown != settings:
            cfg = OmegaConf.create(shown)  # it takes longer than all the rest
        write_atomically(Path(run_dir, "config.yaml"), OmegaConf.to_yaml(cfg, resolve=True))


def run_facts(cfg: DictConfig, model: pl.LightningModule) -> dict[str, Any]:
    """Settings under flat keys, parameter count, git commit and command line."""
    return {
        **flatten(cast("dict[str, Any]", hidden(OmegaConf.to_container(cfg, resolve=True)))),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "git_commit": git_commit(),
        "command": command_line(),
    }
