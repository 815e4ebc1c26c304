"""The command as it would be typed again."""

import sys

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from image_classifier.engine.runs.provenance import command_of_job
from image_classifier.engine.secrets import hidden_overrides
from image_classifier.engine.terminal import shell_joined


def command_line() -> str:
    """The command of this process; of a job of a sweep, the one that runs this job alone."""
    if HydraConfig.initialized() and (hydra_cfg := HydraConfig.get()).mode == RunMode.MULTIRUN:
        return command_of_job(str(hydra_cfg.job.config_name), hidden_overrides(hydra_cfg.overrides.task))
    return shell_joined(["python", *sys.argv])
