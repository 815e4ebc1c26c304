"""Launchers for clusters that lose a job without losing the sweep.

The plug-in's own launchers raise as soon as one job was killed, and forget the jobs that still run.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

from hydra.core.utils import JobReturn, JobStatus
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import BaseSubmititLauncher

from image_classifier.engine.sweeps.job import JobError
from image_classifier.engine.sweeps.jobs import claim_directory, write_record
from image_classifier.engine.terminal import say


class PatientLauncher(BaseSubmititLauncher):
    """Waits for all jobs; one that was killed counts as failed, with what the cluster says of it as the reason."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        import submitit

        assert self.config is not None
        folder = str(self.config.hydra.launcher.submitit_folder)
        if found := re.search(r"%[^%]", folder.removesuffix("/%j")):
            say(
                "error: expected a sweep directory without % because submitit replaces "
                f"{found.group()} in it but found {self.config.hydra.sweep.dir}; choose another: hydra.sweep.dir=DIR",
                sys.stderr,
            )
            sys.exit(2)
        launcher = self

        class PatientExecutor(submitit.AutoExecutor):
            def map_array(self, *arguments: Any) -> list[Any]:
                jobs = super().map_array(*arguments)
                return [
                    PatientJob(launcher, job, overrides, initial_job_idx + index)
                    for index, (job, overrides) in enumerate(zip(jobs, job_overrides, strict=True))
                ]

        with patch.object(submitit, "AutoExecutor", PatientExecutor):
            return super().launch(job_overrides, initial_job_idx)


class PatientJob:
    """Stands for a job of submitit's."""

    def __init__(self, launcher: PatientLauncher, job: Any, overrides: Sequence[str], number: int) -> None:
        self.launcher = launcher
        self.job = job
        self.overrides = list(overrides)
        self.number = number

    def results(self) -> list[JobReturn]:
        """Wait for the job."""
        import submitit

        try:
            return self.job.results()
        except submitit.core.utils.UncompletedJobError as error:
            return [self.lost(error)]

    def lost(self, error: Exception) -> JobReturn:
        reason = f"job {self.job.job_id} ended without a result, state {self.job.state}"
        assert self.launcher.config is not None
        sweep_dir = Path(self.launcher.config.hydra.sweep.dir)
        directory = claim_directory(sweep_dir, self.number, self.overrides)
        write_record(directory, self.overrides, state="failed", reason=reason)
        result = JobReturn()
        result.overrides, result.status, result.return_value = self.overrides, JobStatus.FAILED, JobError(reason)
        return result


class LocalLauncher(PatientLauncher):
    """Each job is a process of this machine."""

    _EXECUTOR = "local"


class SlurmLauncher(PatientLauncher):
    """Each job is a job of Slurm's."""

    _EXECUTOR = "slurm"
