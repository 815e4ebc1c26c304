"""Makes the directory of a run or a sweep before anything else happens, or says in one line why that cannot be."""

import os
import sys
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf


class OutputDirectory(Callback):
    """Hydra callback; in `configs/hydra/default.yaml`."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        make_directory(config, "hydra.run.dir")

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        make_directory(config, "hydra.sweep.dir")


def make_directory(config: DictConfig, key: str) -> None:
    path = OmegaConf.select(config, key, throw_on_resolution_failure=False)
    if path is None:
        return  # Hydra says what is wrong with it
    reason = ""
    if "${" in path:
        reason = "${ begins an interpolation wherever OmegaConf reads the path again"
    else:
        try:
            Path(path).mkdir(parents=True, exist_ok=True)
            if not os.access(path, os.W_OK | os.X_OK):
                reason = "nothing can be written there"
        except OSError as error:
            reason = f"{error.strerror}"
    if reason:
        print(f"error: expected {key} to be a directory to write to but found {path}: {reason}", file=sys.stderr)
        sys.exit(2)
