"""Plain CSV files."""

from typing import Any

import pytorch_lightning.loggers as pl_loggers

from image_classifier.loggers.base import RunLogger


class CSVLogger(RunLogger, pl_loggers.CSVLogger):
    """Writes `metrics.csv` and `hparams.yaml` to `<run_dir>/csv`; pictures go to `<run_dir>/images`."""

    def __init__(self, run_dir: str, **settings: Any) -> None:
        super().__init__(save_dir=run_dir, name="csv", version="", **settings)
