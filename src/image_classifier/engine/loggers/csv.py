"""Plain CSV files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning.loggers as pl_loggers
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from image_classifier.engine.loggers.base import RunLogger, Table, table_rows, write_rows


class CSVLogger(RunLogger, pl_loggers.CSVLogger):
    """Writes `metrics.csv`, `hparams.yaml` and tables to `<run_dir>/csv`; pictures go to `<run_dir>/images`."""

    title = "CSV files"

    def __init__(self, run_dir: str, **settings: Any) -> None:
        super().__init__(save_dir=run_dir, name="csv", version="", **settings)
        self.keep_earlier_rows()

    @rank_zero_only
    def keep_earlier_rows(self) -> None:
        """Move what an interrupted run wrote to `metrics_<n>.csv`; Lightning would delete it."""
        earlier = Path(self.log_dir) / "metrics.csv"
        if earlier.exists():
            earlier.rename(earlier.with_name(f"metrics_{len(list(earlier.parent.glob('metrics_*.csv'))) + 1}.csv"))

    def log_matrix(self, key: str, table: Table, beside: Mapping[str, float], step: int) -> bool:
        assert self.experiment  # made before anything else lies in its directory, which it would warn about
        write_rows(Path(self.log_dir) / f"{key}_step_{step}.csv", table_rows(table))
        return True

    def log_final_metrics(self, metrics: Mapping[str, float]) -> None:
        """`final_metrics.csv`: a header and one row, so that those of many runs can be read into one table."""
        write_rows(Path(self.log_dir) / "final_metrics.csv", [list(metrics), list(metrics.values())])
