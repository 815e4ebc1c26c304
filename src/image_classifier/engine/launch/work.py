"""What a command does with a configuration that Hydra has composed: check it, import what the work needs, work."""

import atexit
import functools
import gc
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from image_classifier.engine import interruption
from image_classifier.engine.errors import UserError
from image_classifier.engine.launch import processes
from image_classifier.engine.launch.checks import check_config
from image_classifier.engine.launch.compiled_code import keep_compiled_code
from image_classifier.engine.launch.refusals import work_begins
from image_classifier.engine.overrides import swept_keys
from image_classifier.engine.secrets import hidden_overrides
from image_classifier.engine.sweeps.job import run_job
from image_classifier.engine.terminal import say

Task = Callable[[DictConfig], Any]


def perform(cfg: DictConfig, task: Task, load: Callable[[], None], one_process: bool) -> Any:
    """Check a configuration and do the work on it, telling mistakes of the user's in one line."""

    def check_and_work(cfg: DictConfig) -> Any:
        check_config(cfg, whole=True)
        if cfg.get("train"):  # else settings of the checkpoint take the place of some that others interpolate
            OmegaConf.resolve(cfg)  # once: they are read many times from here on
        if one_process and processes.number_of_processes(cfg.trainer) > 1:
            raise UserError(
                f"expected trainer.devices=1, for {task.__name__} runs in one process, but found {cfg.trainer.devices}"
            )
        return processes.run(task, cfg)

    sys.argv[1:] = hidden_overrides(sys.argv[1:])  # Hydra has read them: loggers and messages copy them
    hydra_cfg = HydraConfig.get()
    is_first = work_begins()
    if hydra_cfg.mode == RunMode.MULTIRUN:
        if is_first:
            stop_if_wrong(cfg)
        import_once(load)  # before the clock of the first job starts
        return run_job(cfg, check_and_work)
    if chosen := hydra_cfg.runtime.choices.get("sweep"):
        say(f"One run only: add -m to sweep over what sweep={chosen} says", sys.stderr)
    try:
        return check_and_work(cfg)
    except UserError as error:
        stop(error)


def stop_if_wrong(cfg: DictConfig) -> None:
    """End a sweep whose first job has a mistake that all will have; one in what is swept is that job's own."""
    try:
        check_config(cfg)
    except UserError as error:
        if not any(key in str(error) for key in swept_keys(sys.argv[1:])):
            stop(error)


def stop(error: UserError) -> NoReturn:
    say(f"error: {error}", sys.stderr)
    sys.exit(2)


@functools.cache
def import_once(load: Callable[[], None]) -> None:
    """Import what the work needs; garbage collection, where it was off since the start, then looks at it no more."""
    keep_compiled_code()
    off_since_the_start = not gc.isenabled()
    gc.disable()  # imports make much and drop little: they take a fifth less
    with interruption.held():  # torch goes on with half of numpy where an import of it was interrupted
        load()
    if off_since_the_start:
        gc.freeze()  # libraries stay: else each full collection looks at all their objects, for 0.2 s
        atexit.register(gc.unfreeze)  # else triton takes them for leaks and says so at the end
    gc.enable()
