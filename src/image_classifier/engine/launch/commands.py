"""Makes a command of a function that takes a configuration.

Nothing here imports torch before the configuration is composed and checked: help and mistakes answer at once.
"""

import functools
import gc
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from image_classifier.engine import interruption
from image_classifier.engine.disk import writing_to
from image_classifier.engine.errors import UserError
from image_classifier.engine.launch import processes
from image_classifier.engine.launch.choices import check_choices
from image_classifier.engine.launch.completion import asks_for_completion, complete
from image_classifier.engine.launch.configuration import CONFIG_DIR
from image_classifier.engine.launch.environment import read_environment
from image_classifier.engine.launch.objects import EXECUTION_WHITELIST
from image_classifier.engine.launch.output_directory import leave, remove_unused
from image_classifier.engine.launch.refusals import refusals_in_short
from image_classifier.engine.launch.resume_directory import with_those_of_the_run
from image_classifier.engine.launch.work import Task, import_once, perform, stop
from image_classifier.engine.memory_errors import memory_told
from image_classifier.engine.overrides import prepare, typed_value
from image_classifier.engine.project import PROJECT_ROOT
from image_classifier.engine.secrets import check_secrets, secrets_kept
from image_classifier.engine.sweeps.job import failures_in_one_line


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
                run_dir = Path(OmegaConf.select(cfg, "paths.run_dir") or ".")
                with writing_to(run_dir, Path(output) if output else None), memory_told(), secrets_kept(cfg):
                    return task(cfg)
            logging.raiseExceptions = False  # a log file on a full disk: that is told by whoever else writes there
            if typed_value("shortcuts", sys.argv[1:]) is not False:
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
