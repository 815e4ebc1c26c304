"""The commands `train.py`, `eval.py` and `predict.py`.

Nothing here imports torch before the configuration is composed and checked: help and mistakes answer at once.
"""

import atexit
import gc
import importlib
import sys
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError

from image_classifier.engine import interruption
from image_classifier.engine.errors import UserError
from image_classifier.engine.launch import processes as distributed
from image_classifier.engine.launch.checks import check_config
from image_classifier.engine.launch.configuration import CONFIG_DIR, PROJECT_ROOT
from image_classifier.engine.launch.objects import EXECUTION_WHITELIST
from image_classifier.engine.launch.output_directory import leave, remove_unused
from image_classifier.engine.launch.overrides import prepare
from image_classifier.engine.launch.resume_directory import with_those_of_the_run
from image_classifier.engine.sweeps.job import run_job

__all__ = ["CONFIG_DIR", "PROJECT_ROOT", "eval_command", "predict_command", "train_command"]


def perform(cfg: DictConfig, work: str) -> Any:
    """Do the work of a command, telling mistakes of the user's in one line.

    Args:
        cfg: The composed configuration.
        work: Name of a function in `pipeline`; its result is what a sweeper optimizes.
    """

    def check_and_work(cfg: DictConfig) -> Any:
        try:
            check_config(cfg)
            OmegaConf.to_container(cfg, resolve=True)
        except InterpolationResolutionError as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"expected what ${{}} names in {error.full_key} to be there but found: {reason}") from None
        if work == "predict" and distributed.number_of_processes(cfg.trainer) > 1:
            raise UserError(
                f"expected trainer.devices=1, for predict runs in one process, but found {cfg.trainer.devices}"
            )
        return distributed.run(partial(call_pipeline, work), cfg)

    hydra_cfg = HydraConfig.get()
    if hydra_cfg.mode == RunMode.MULTIRUN:
        import_pipeline()  # before the clock of the first job starts
        return run_job(cfg, check_and_work)
    if chosen := hydra_cfg.runtime.choices.get("sweep"):
        print(f"One run only: add -m to sweep over what sweep={chosen} says", file=sys.stderr)
    try:
        return check_and_work(cfg)
    except UserError as error:
        stop(error)


def stop(error: UserError) -> NoReturn:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)


def call_pipeline(work: str, cfg: DictConfig) -> Any:
    """Call a function of `pipeline`; here rather than there, so that it is named without importing torch."""
    return getattr(import_pipeline(), work)(cfg)


def import_pipeline() -> ModuleType:
    """Import `pipeline`, and with it torch and Lightning, once."""
    if (pipeline := sys.modules.get("image_classifier.pipeline")) is None:
        pipeline = importlib.import_module("image_classifier.pipeline")
        gc.freeze()  # libraries stay: else each full collection looks at all their objects, for 0.2 s
        atexit.register(gc.unfreeze)  # else triton takes them for leaks and says so at the end
    gc.enable()
    return pipeline


# Functions of the module, because the processes that launchers start find them by name.
def train(cfg: DictConfig) -> Any:
    return perform(cfg, "train")


def evaluate(cfg: DictConfig) -> Any:
    return perform(cfg, "evaluate")


def predict(cfg: DictConfig) -> Any:
    return perform(cfg, "predict")


def command(config_name: str, task: Callable[[DictConfig], Any], work: str) -> Callable[[], None]:
    """Make a Hydra command, which under torchrun or srun only rank 0 runs as such.

    Args:
        config_name: File in `configs/`.
        task: What it does with the composed configuration.
        work: Name of the function in `pipeline` that the other ranks call.
    """
    decorate = hydra.main(config_path=CONFIG_DIR, config_name=config_name, execution_whitelist=EXECUTION_WHITELIST)
    run_hydra = decorate(task)

    def main() -> None:
        try:
            sys.argv[1:] = with_those_of_the_run(prepare(sys.argv[1:]))
        except UserError as error:
            stop(error)
        run_hydra()

    lead_or_follow = distributed.lead_or_follow(main, partial(call_pipeline, work))

    def start() -> None:
        gc.disable()  # composing and importing make much and drop little; `import_pipeline` switches it on again
        try:
            with interruption.command(silent=distributed.is_follower()):
                lead_or_follow()
        except SystemExit as stop:
            if stop.code not in (None, 0, 1):  # a mistake of the user's, or a signal; 1: there is a log to look at
                remove_unused()
            raise
        finally:
            leave()
            gc.enable()

    return start


train_command = command("train", train, "train")
eval_command = command("eval", evaluate, "evaluate")
predict_command = command("predict", predict, "predict")
