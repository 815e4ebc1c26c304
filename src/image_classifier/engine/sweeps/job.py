"""One job of a sweep: skipped when it is finished, resumed when it was killed, recorded when it fails."""

import contextlib
import gc
import logging
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict

from image_classifier.engine.errors import UserError
from image_classifier.engine.runs.files import write_json
from image_classifier.engine.secrets import hidden_overrides
from image_classifier.engine.sweeps.jobs import read_job, write_record
from image_classifier.engine.sweeps.objectives import objective_values
from image_classifier.engine.terminal import say

log = logging.getLogger(__name__)

REASON_LENGTH = 300  # longer error messages are cut in the record of a job; its log file has all


class JobError(Exception):
    """A job failed; the reason is in its record and in its log file."""


@contextlib.contextmanager
def failures_in_one_line() -> Iterator[None]:
    """Have a failed job, whose traceback is in its log file already, told in one line at the end of a sweep.

    Hydra prints errors by `sys.excepthook` where that is not Python's own.
    """
    before = sys.excepthook

    def tell(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        if isinstance(error, JobError):
            say(f"error: {error}", sys.stderr)
        else:
            before(kind, error, traceback)

    sys.excepthook = tell
    try:
        yield
    finally:
        sys.excepthook = before


def run_job(cfg: DictConfig, work: Callable[[DictConfig], Any]) -> Any:
    """Do the work of a job, once.

    Args:
        cfg: The composed configuration of the job.
        work: Trains or evaluates; writes `metrics.json` last.

    Returns:
        What `work` returns, or returned when it finished earlier.

    Raises:
        JobError: It failed; the other jobs of the sweep go on.
    """
    directory = Path(cfg.paths.run_dir)
    overrides = list(HydraConfig.get().overrides.task)
    with job_lock(directory):
        job = read_job(directory)
        if job is not None and job.done and sorted(job.overrides) == sorted(hidden_overrides(overrides)):
            say(f"Finished earlier: {directory}")  # not into the log file: the directory stays as it is
            return objective_values(cfg, job.metrics)
        write_record(directory, overrides, state="running", reason="", pruned_after_epochs=None)
        start = time.perf_counter()
        value, reason = attempt(cfg, work, directory)
        seconds = round(time.perf_counter() - start, 3)
        state = "failed" if reason else "finished"
        if not reason and not (directory / "metrics.json").exists():
            write_json(directory / "metrics.json", {})  # work without figures, such as a prediction, is finished too
        try:
            write_record(directory, overrides, state=state, reason=reason, seconds=seconds, threads=threads())
        except OSError as error:  # a full disk, most likely the reason itself
            reason = reason or f"{directory} cannot be written: {error.strerror}"
    if reason:
        # A new error: the old one would keep the model, and on a GPU its memory, until the sweep ends.
        raise JobError(reason)
    return value


def attempt(cfg: DictConfig, work: Callable[[DictConfig], Any], directory: Path) -> tuple[Any, str]:
    """Returns what the work returns, and why it failed."""
    try:
        with open_dict(cfg):
            resume_from_last_checkpoint(cfg, directory)
            name_logger_runs(cfg, directory)
        return work(cfg), ""
    except UserError as error:
        log.error(f"Job failed: {error}")
        return None, str(error)
    except Exception as error:
        log.exception("Job failed")
        return None, f"{type(error).__name__}: {error}"[:REASON_LENGTH]
    finally:
        gc.collect()  # trainer and model refer to each other


def threads() -> int:
    """CPU threads of this process; launchers that run jobs side by side give each a share."""
    import torch

    return torch.get_num_threads()


def job_lock(directory: Path) -> AbstractContextManager[Any]:
    """A lock that dies with its process: a job of a killed sweep may still run when the sweep is started again."""
    from filelock import FileLock, Timeout  # here, for it takes longer to import than all else that help needs of ours

    lock = FileLock(directory / ".lock")
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        log.warning(f"Waiting: another process is still running {directory}")
        return lock.acquire()


def resume_from_last_checkpoint(cfg: DictConfig, directory: Path) -> None:
    checkpoint = directory / "checkpoints" / "last.ckpt"
    if cfg.get("train") and cfg.ckpt_path is None and is_intact(checkpoint):
        cfg.ckpt_path = str(checkpoint)
        log.info(f"Resuming from {checkpoint}")


def is_intact(checkpoint: Path) -> bool:
    """Whether a checkpoint is a whole zip archive, whose table of contents is written last."""
    return checkpoint.is_file() and zipfile.is_zipfile(checkpoint)


def name_logger_runs(cfg: DictConfig, directory: Path) -> None:
    """Group the runs of a sweep in loggers that know groups, and name each after its overrides."""
    job = read_job(directory)
    assert job is not None
    for logger in (cfg.get("logger") or {}).values():
        if "group" in logger:
            logger.group = logger.group or directory.parent.name
            logger.name = logger.get("name") or " ".join(job.overrides) or directory.name
            logger.id = logger.get("id") or job.identity  # the same after a resume: one run for each job
