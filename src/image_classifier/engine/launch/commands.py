"""Makes a command of a function that takes a configuration.

Nothing here imports torch before the configuration is composed and checked: help and mistakes answer at once.
"""

import atexit
import functools
import gc
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError

from image_classifier.engine import interruption
from image_classifier.engine.disk import writing_to
from image_classifier.engine.errors import UserError
from image_classifier.engine.launch import processes
from image_classifier.engine.launch.checks import check_config
from image_classifier.engine.launch.choices import check_choices
from image_classifier.engine.launch.completion import asks_for_completion, complete
from image_classifier.engine.launch.configuration import CONFIG_DIR
from image_classifier.engine.launch.environment import read_environment
from image_classifier.engine.launch.objects import EXECUTION_WHITELIST
from image_classifier.engine.launch.output_directory import leave, remove_unused
from image_classifier.engine.launch.refusals import refusals_in_short, work_begins
from image_classifier.engine.launch.resume_directory import with_those_of_the_run
from image_classifier.engine.overrides import prepare, swept_keys
from image_classifier.engine.project import PROJECT_ROOT
from image_classifier.engine.secrets import check_secrets, hidden_overrides
from image_classifier.engine.sweeps.job import failures_in_one_line, run_job
from image_classifier.engine.terminal import say

Task = Callable[[DictConfig], Any]


def command(config_name: str, load: Callable[[], None], *, one_process: bool = False) -> Callable[[Task], Callable]:
    """Decorate a function of a module, so that calling it without a configuration runs it as a Hydra command.

    Under torchrun or srun only rank 0 composes configurations; the other ranks work on the same ones. Called with a
    configuration, as other processes do who know it by its name, the function does its work on that.

    Args:
        config_name: File in `configs/`.
        load: Imports what the function needs.
        one_process: The work is not for several processes.
    """

    def decorate(task: Task) -> Callable[..., Any]:
        @functools.wraps(task)
        def start(cfg: DictConfig | None = None) -> Any:
            read_environment(PROJECT_ROOT)
            if cfg is not None:
                import_once(load)
                output = OmegaConf.select(cfg, "output")
                with writing_to(Path(OmegaConf.select(cfg, "paths.run_dir") or "."), Path(output) if output else None):
                    return task(cfg)
            logging.raiseExceptions = False  # a log file on a full disk: that is told by whoever else writes there
            if "shortcuts=false" not in sys.argv:
                gc.disable()  # composing and importing make much and drop little; `import_once` switches it on again
            try:
                with interruption.command(silent=processes.is_follower()), failures_in_one_line():
                    return processes.lead_or_follow(main, start)()
            except SystemExit as end:
                if end.code not in (None, 0, 1):  # a mistake of the user's, or a signal; 1: there is a log to look at
                    remove_unused()
                raise
            finally:
                leave()
                gc.enable()

        @functools.wraps(task)
        def perform_task(cfg: DictConfig) -> Any:  # Hydra's launchers find `start` by this name
            return perform(cfg, start, load, one_process)

        def main() -> None:
            run_hydra = hydra.main(CONFIG_DIR, config_name, execution_whitelist=EXECUTION_WHITELIST)(perform_task)
            if asks_for_completion(sys.argv[1:]):
                complete(run_hydra, Path(CONFIG_DIR))
                return
            try:
                sys.argv[1:] = with_those_of_the_run(prepare(sys.argv[1:]))
                check_secrets(sys.argv[1:])
                check_choices(sys.argv[1:], Path(CONFIG_DIR))
            except UserError as error:
                stop(error)
            if {"--help", "-h"} & set(sys.argv[1:]):
                from image_classifier.engine.launch.help import print_help

                print_help(config_name, sys.argv[1:])
                return
            with refusals_in_short():
                run_hydra()

        return start

    return decorate


def perform(cfg: DictConfig, task: Task, load: Callable[[], None], one_process: bool) -> Any:
    """Check a configuration and do the work on it, telling mistakes of the user's in one line."""

    def check_and_work(cfg: DictConfig) -> Any:
        try:
            check_config(cfg)
            OmegaConf.to_container(cfg, resolve=True)
        except InterpolationResolutionError as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"expected what ${{}} names in {error.full_key} to be there but found: {reason}") from None
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
    """Import what the work needs; garbage collection, off since the start, then looks at it no more."""
    with interruption.held():  # torch goes on with half of numpy where an import of it was interrupted
        load()
    if not gc.isenabled():
        gc.freeze()  # libraries stay: else each full collection looks at all their objects, for 0.2 s
        atexit.register(gc.unfreeze)  # else triton takes them for leaks and says so at the end
        gc.enable()
