"""Trackio: W&B's way of logging into a database on this machine, with a dashboard of its own."""

import contextlib
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from image_classifier.engine.errors import UserError
from image_classifier.engine.loggers.already import Already, Recent
from image_classifier.engine.loggers.base import RunLogger, Table, table_rows
from image_classifier.engine.terminal import say


class TrackioLogger(RunLogger, Logger):
    """Logs to Trackio's store, which all runs share; `trackio show` opens the dashboard.

    Args:
        run_dir: Run directory; the run is named after its last two parts, and goes on when it is resumed there.
        project: Trackio project.
        store: Directory of Trackio's databases and pictures; the variable TRACKIO_DIR goes before it.
        settings: Further arguments of `trackio.init`, such as group and space_id.

    Raises:
        UserError: The package trackio is not installed.
    """

    title = "Trackio"

    def __init__(self, run_dir: str, project: str, store: str, **settings: Any) -> None:
        super().__init__()
        self.run_dir = Path(run_dir).absolute()
        self.project = project
        self.settings = settings
        self.facts: dict[str, Any] = {}
        self.run: Any = None
        self.already = Already()
        self.recent = Recent()
        os.environ.setdefault("TRACKIO_DIR", str(Path(store).absolute()))  # read when trackio is imported
        try:
            import trackio  # noqa: F401
        except ImportError as error:
            raise UserError(
                f"expected the package trackio for logger=trackio but found none ({error}); "
                "install it: .venv/bin/python -m uv pip install trackio"
            ) from None

    @property
    def name(self) -> str:
        return self.project

    @property
    def version(self) -> str:
        return "-".join(self.run_dir.parts[-2:])

    @property
    def experiment(self) -> Any:
        """Trackio's run; None in other processes than the first."""
        if self.run is None and getattr(rank_zero_only, "rank", 0) == 0:
            import trackio

            with contextlib.redirect_stdout(io.StringIO()):  # three lines of greeting
                self.run = trackio.init(
                    self.project,
                    self.version,
                    config=self.facts,
                    resume="allow",
                    **{"embed": False, "auto_log_gpu": False, "auto_log_cpu": False, **self.settings},
                )
            say(f"Trackio: .venv/bin/trackio show --project {self.project}")
        return self.run

    @rank_zero_only
    def mark(self) -> Any:
        """The last rows: Trackio writes them in a thread, from time to time."""
        return self.recent.mark()

    @rank_zero_only
    def go_on(self, mark: Any, step: int) -> None:
        """Look up what Trackio has of this run, which it knows by its name."""
        from trackio.sqlite_storage import SQLiteStorage  # of trackio 0.43: its own API asks a server

        rows = SQLiteStorage.get_logs(self.project, self.version)
        values: dict[str, dict[int, Any]] = {}
        for row in rows:
            for key, value in row.items():
                values.setdefault(key, {})[row["step"]] = value
        self.already = Already(self.title, values)
        for metrics, logged_at in mark or ():
            self.log_metrics(metrics, logged_at)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.log_new(metrics, step)

    def log_new(self, values: Mapping[str, Any], step: int | None) -> None:
        numbers = {key: value for key, value in values.items() if isinstance(value, int | float)}
        new = self.already.new(numbers, step)
        new |= {key: value for key, value in values.items() if key not in numbers and not self.already.has(key, step)}
        if new:
            self.experiment.log(new, step=step)
            if step is not None:
                self.recent.add(new, step)

    @rank_zero_only
    def log_hyperparams(self, params: Any, *arguments: Any, **settings: Any) -> None:
        self.log_facts(dict(params))

    @rank_zero_only
    def log_facts(self, facts: Mapping[str, Any]) -> None:
        """Settings of a run, which Trackio takes when it starts one."""
        self.facts |= facts

    @rank_zero_only
    def log_image(self, key: str, images: list[Any], step: int | None = None, **kwargs: Any) -> None:
        import trackio

        for index, image in enumerate(images):
            name = key if len(images) == 1 else f"{key}_{index}"
            self.log_new({name: trackio.Image(np.asarray(image))}, step)

    def log_markdown(self, key: str, markdown: str, step: int) -> bool:
        import trackio

        self.log_new({key: trackio.Markdown(markdown)}, step)
        return True

    def log_rows(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> bool:
        import trackio

        self.log_new({key: trackio.Table(columns=list(columns), data=[list(row) for row in rows])}, step)
        return True

    def log_matrix(self, key: str, table: Table, beside: Mapping[str, float], step: int) -> bool:
        header, *rows = table_rows(table)
        self.log_rows(key, header, rows, step)
        self.log_metrics({f"{key}/{name}": value for name, value in beside.items()}, step)
        return True

    def log_page(self, key: str, page: Path, step: int) -> bool:
        import trackio

        self.log_new({key: trackio.Html(page, inject=False)}, step)
        return True

    def log_final_metrics(self, metrics: Mapping[str, float]) -> None:
        self.log_metrics({f"final/{name}": value for name, value in metrics.items()})

    def close(self) -> None:
        if self.run is not None:
            import trackio

            with contextlib.redirect_stdout(io.StringIO()):
                trackio.finish()  # of the run and of the place where Trackio would look for one to end at the exit
            self.run = None
