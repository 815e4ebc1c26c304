"""Weights & Biases, which works without a key, a terminal or a network by going offline by itself."""

import contextlib
import netrc
import os
import re
import shlex
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import pytorch_lightning.loggers as pl_loggers
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from image_classifier.engine.errors import UserError
from image_classifier.engine.loggers.base import RunLogger, Table, shortened

CONNECT_TIMEOUT = 3.0  # seconds to wait for the server before a run goes offline
FINISH_TIMEOUT = 60.0  # seconds to wait for the last upload when the server has died


Mode = Literal["auto", "online", "offline", "disabled"]


class WandbLogger(RunLogger, pl_loggers.WandbLogger):
    """Logs to W&B under `<run_dir>/wandb`, online only when a key is there and the server answers.

    Args:
        run_dir: Run directory.
        project: W&B project.
        mode: "auto", "online", "offline" or "disabled"; the variable WANDB_MODE goes before "auto".
        settings: Further arguments of `wandb.init`, such as entity, group, name, tags.
    """

    def __init__(self, run_dir: str, project: str, mode: Mode = "auto", **settings: Any) -> None:
        if found := sorted(set("/\\#?%:") & set(project)) or project[128:]:
            raise UserError(
                f"expected a W&B project of at most 128 characters without / \\ # ? % : but found {''.join(found)!r} "
                f"in {project!r}; choose another: logger.wandb.project=NAME"
            )
        super().__init__(save_dir=run_dir, project=project, **within_limits(settings))
        del self._wandb_init["anonymous"]  # W&B warns about it, even when it is None
        self.mode: Any = os.environ.get("WANDB_MODE") if mode == "auto" else mode

    @property
    def experiment(self) -> Any:
        if self._experiment is None and getattr(rank_zero_only, "rank", 0) == 0:
            self._start()
        return super().experiment

    def _start(self) -> None:
        import wandb

        reason = "WANDB_MODE or logger.wandb.mode says so"
        if self.mode is None:
            reason = why_offline()
            self.mode = "offline" if reason else "online"
        # Staged tables would otherwise be left in the user's data directory.
        os.environ.setdefault("WANDB_DATA_DIR", str(Path(str(self._save_dir)) / "wandb"))
        Path(str(self._save_dir)).mkdir(parents=True, exist_ok=True)
        # A short flush interval: whatever is not flushed when a run is killed is lost.
        self._wandb_init["settings"] = wandb.Settings(
            console="off",
            silent=True,
            finish_timeout=FINISH_TIMEOUT,
            x_transaction_log_flush_interval=1,
            x_disable_stats=self.mode != "online",
        )
        try:
            self._experiment = wandb.init(mode=self.mode, **self._wandb_init)
        except wandb.Error as error:
            if self.mode != "online":
                raise
            self.mode, reason = "offline", f"{error}"
            self._experiment = wandb.init(mode="offline", **self._wandb_init)
        self._experiment.define_metric("trainer/global_step")
        self._experiment.define_metric("*", step_metric="trainer/global_step", step_sync=True)
        if self.mode == "offline":
            directory = Path(self._experiment.dir).parent
            command = shlex.join(["wandb", "sync", str(directory)])
            print(f"W&B logs offline ({reason}). Upload the run later with: {command}", flush=True)
        elif self.mode == "online":
            print(f"W&B run: {self._experiment.url}", flush=True)

    def log_matrix(self, key: str, table: Table, beside: Mapping[str, float], step: int) -> bool:
        figures = {f"{key}/{name}": value for name, value in beside.items()}
        self.experiment.log({key: table, **figures, "trainer/global_step": step})
        return True

    def log_matrix_chart(self, key: str, table: Table, title: str, step: int) -> bool:
        import wandb

        columns: list[str | int] = ["Actual", "Predicted", "nPredictions"]  # what W&B's own chart expects
        cells = [[true, predicted, count] for predicted, column in table.items() for true, count in column.items()]
        chart = wandb.plot_table(
            vega_spec_name="wandb/confusion_matrix/v1",
            data_table=wandb.Table(columns=columns, data=cells),
            fields={str(column): str(column) for column in columns},
            string_fields={"title": title},
        )
        self.experiment.log({key: chart, "trainer/global_step": step})
        return True

    def log_rows(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> bool:
        self.log_table(key, columns=list(columns), data=[list(row) for row in rows], step=step)
        return True

    def log_page(self, key: str, page: Path, step: int) -> bool:
        import wandb

        self.experiment.log({key: wandb.Html(str(page), inject=False), "trainer/global_step": step})
        return True

    def log_facts(self, facts: Mapping[str, Any]) -> None:
        self.experiment.config.update(dict(facts), allow_val_change=True)

    def log_final_metrics(self, metrics: Mapping[str, float]) -> None:
        self.experiment.summary.update({f"final/{key}": value for key, value in metrics.items()})

    def close(self) -> None:
        if self._experiment is None:
            return
        try:
            self._experiment.finish()
        except Exception as error:  # a dead server must not take the finished training with it
            command = shlex.join(["wandb", "sync", str(Path(self._experiment.dir).parent)])
            print(f"W&B could not finish the upload ({error}); retry with: {command}", file=sys.stderr)
        self._experiment = None


def within_limits(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as W&B takes them: the names of a sweep's jobs are made of overrides, and may be of any length."""
    fitting = dict(settings)
    for key in ("name", "group", "job_type", "id"):
        if settings.get(key) is not None:
            fitting[key] = shortened(str(settings[key]), 128)
    if settings.get("id") is not None:
        fitting["id"] = re.sub(r"[/\\#?%:]", "_", fitting["id"])
    if settings.get("tags"):
        fitting["tags"] = [shortened(str(tag), 64) for tag in settings["tags"]]
    return fitting


def why_offline() -> str:
    """Why a run cannot go online: no key, or no answer from the server. Empty when it can."""
    server = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai"))
    host = server.hostname or "api.wandb.ai"
    has_key = bool(os.environ.get("WANDB_API_KEY"))
    with contextlib.suppress(OSError, netrc.NetrcParseError):
        has_key = has_key or netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    if not has_key:
        return "no API key found"
    try:
        port = server.port or (80 if server.scheme == "http" else 443)
        socket.create_connection((host, port), timeout=CONNECT_TIMEOUT).close()
    except OSError as error:
        return f"{host} does not answer: {error}"
    return ""
