"""The commands `train.py`, `eval.py` and `predict.py`.

Nothing here imports torch before the configuration is composed and checked: help and mistakes answer at once.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from image_classifier import distributed
from image_classifier.checks import check_config
from image_classifier.errors import UserError
from image_classifier.instantiation import EXECUTION_WHITELIST

PROJECT_ROOT = Path(__file__).resolve().parents[2]
CONFIG_DIR = str(PROJECT_ROOT / "configs")

OmegaConf.register_resolver("project_root", lambda: str(PROJECT_ROOT), replace=True)


def command(config_name: str, run: Callable[[DictConfig], Any]) -> Callable[[], None]:
    """Make a Hydra command that tells mistakes of the user's in one line.

    Args:
        config_name: File in `configs/`.
        run: Does the work; its result is what a sweeper optimizes.
    """

    def task(cfg: DictConfig) -> Any:
        try:
            check_config(cfg)
            return distributed.run(run, cfg)
        except UserError as error:
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                raise  # the other jobs of a sweep go on
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)

    main = hydra.main(config_path=CONFIG_DIR, config_name=config_name, execution_whitelist=EXECUTION_WHITELIST)(task)
    return distributed.lead_or_follow(main, run)


def train(cfg: DictConfig) -> Any:
    from image_classifier import pipeline

    return pipeline.train(cfg)


def evaluate(cfg: DictConfig) -> Any:
    from image_classifier import pipeline

    return pipeline.evaluate(cfg)


def predict(cfg: DictConfig) -> Any:
    from image_classifier import pipeline

    return pipeline.predict(cfg)


train_command = command("train", train)
eval_command = command("eval", evaluate)
predict_command = command("predict", predict)
