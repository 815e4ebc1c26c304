"""Plain CSV files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning.loggers as pl_loggers
from lightning_fabric.loggers.logger import rank_zero_experiment
from pytorch_lightning.loggers.csv_logs import ExperimentWriter
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from image_classifier.engine.confusion.tables import read_rows
from image_classifier.engine.loggers.base import RunLogger, Table, table_rows, write_rows


class MetricsFile(ExperimentWriter):
    """Writes `metrics.csv`, going on in the file that is there; Lightning's would delete it.

    Of Lightning 2.6: `_check_log_dir_exists` deletes, `_rewrite_with_new_header` leaves half a file when it is killed
    (tests/engine/loggers/test_resumption.py).
    """

    def __init__(self, log_dir: str) -> None:
        super().__init__(log_dir)
        self.path = Path(self.metrics_file_path)
        lines = self.lines()
        self.metrics_keys = lines[0] if lines else []
        self.rows = max(len(lines) - 1, 0)

    def _check_log_dir_exists(self) -> None:
        pass

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        header, *rows = self.lines()
        named = (dict(zip(header, row, strict=False)) for row in rows)
        write_rows(self.path, [fieldnames, *([row.get(key) for key in fieldnames] for row in named)])

    def save(self) -> None:
        self.rows += len(self.metrics)
        super().save()

    def lines(self) -> list[list[str]]:
        if not self.path.is_file():
            return []
        with self.path.open(newline="") as file:
            return list(read_rows(file))

    def cut(self, rows: int | None, step: int) -> None:
        """Keep so many rows; None for those before a step."""
        if not (lines := self.lines()):
            return
        header, *body = lines
        if rows is None:
            place = header.index("step") if "step" in header else 0
            kept = [line for line in body if len(line) == len(header) and line[place] and int(line[place]) < step]
        else:
            kept = body[:rows]
        if len(kept) < len(body):
            write_rows(self.path, [header, *kept])
            self.rows = len(kept)


class CSVLogger(RunLogger, pl_loggers.CSVLogger):
    """Writes `metrics.csv`, `hparams.yaml` and tables to `<run_dir>/csv`; pictures go to `<run_dir>/images`."""

    title = "CSV files"

    def __init__(self, run_dir: str, **settings: Any) -> None:
        super().__init__(save_dir=run_dir, name="csv", version="", **settings)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        if self._experiment is None:
            self._experiment = MetricsFile(self.log_dir)
        return self._experiment

    @rank_zero_only
    def mark(self) -> Any:
        """The number of rows."""
        self.experiment.save()
        return {"rows": self.experiment.rows}

    @rank_zero_only
    def go_on(self, mark: Any, step: int) -> None:
        """Keep the rows that were there when the checkpoint was written; the file before stays until that is done."""
        self.experiment.cut(mark["rows"] if mark else None, step)

    @rank_zero_only
    def start_anew(self) -> None:
        """Move what another run wrote to `metrics_<n>.csv`."""
        earlier = Path(self.log_dir) / "metrics.csv"
        if earlier.exists():
            earlier.rename(earlier.with_name(f"metrics_{len(list(earlier.parent.glob('metrics_*.csv'))) + 1}.csv"))

    def log_matrix(self, key: str, table: Table, beside: Mapping[str, float], step: int) -> bool:
        write_rows(Path(self.log_dir) / f"{key}_step_{step}.csv", table_rows(table))
        return True

    def log_final_metrics(self, metrics: Mapping[str, float]) -> None:
        """`final_metrics.csv`: a header and one row, so that those of many runs can be read into one table."""
        write_rows(Path(self.log_dir) / "final_metrics.csv", [list(metrics), list(metrics.values())])
