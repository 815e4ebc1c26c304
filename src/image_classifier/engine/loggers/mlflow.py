"""MLflow, by default in a database in the run directory."""

import hashlib
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning.loggers as pl_loggers

from image_classifier.engine.errors import UserError
from image_classifier.engine.loggers.already import Already
from image_classifier.engine.loggers.base import RunLogger, Table
from image_classifier.engine.loggers.guard import reason_of, say
from image_classifier.engine.runs.files import write_atomically
from image_classifier.engine.sqlite import sqlite_url

METRICS_A_CALL = 1000  # MLflow takes no more in one call


class MLFlowLogger(RunLogger, pl_loggers.MLFlowLogger):
    """Logs to MLflow; pictures, tables and texts are artifacts named `<key>_step_<step>`.

    Args:
        run_dir: Run directory.
        experiment: Name of the experiment.
        tracking_uri: A tracking server or a database; None for `<run_dir>/mlruns/mlflow.db`. (MLflow has given up
            its former store of plain files.)
        settings: Further arguments of Lightning's MLFlowLogger, such as run_name and tags.

    Raises:
        UserError: The package mlflow is not installed.
    """

    title = "MLflow"

    def __init__(self, run_dir: str, experiment: str, tracking_uri: str | None = None, **settings: Any) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        try:
            import mlflow  # noqa: F401
        except ImportError as error:
            raise UserError(
                f"expected the package mlflow for logger=mlflow but found none ({error}); "
                "install it: .venv/bin/python -m uv pip install mlflow"
            ) from None
        for name in ("alembic", "mlflow.store.db.utils", "pytorch_lightning.loggers.mlflow"):  # about a new database
            logging.getLogger(name).setLevel(logging.ERROR)
        if tracking_uri is None:
            store = Path(run_dir).resolve() / "mlruns"
            store.mkdir(parents=True, exist_ok=True)
            # Without the driver's name MLflow would make the directories of the URL, encoded as they are.
            tracking_uri = sqlite_url(f"{store}/mlflow.db").replace("sqlite:", "sqlite+pysqlite:", 1)
            settings.setdefault("artifact_location", (store / "artifacts").as_uri())
        # MLflow itself would wait for two minutes, seven times.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        self.remote = tracking_uri.startswith(("http:", "https:"))
        super().__init__(experiment_name=experiment, tracking_uri=tracking_uri, **settings)
        self.status = "success"
        self.already = Already()
        self.earlier_facts: dict[str, str] = {}
        self.id_file = Path(run_dir) / "mlruns" / "run_id"

    def mark(self) -> Any:
        """Keeps which run of MLflow's is that of the run directory."""
        if not self.id_file.exists() or self.id_file.read_text() != self.run_id:
            write_atomically(self.id_file, str(self.run_id))

    def go_on(self, mark: Any, step: int) -> None:
        if not self.id_file.is_file():
            return
        from mlflow.exceptions import MlflowException

        self._run_id = self.id_file.read_text()
        try:
            run = self.experiment.get_run(self._run_id)
        except MlflowException as error:  # it was deleted
            say(f"MLflow has no run {self._run_id} any more ({reason_of(error)}): a new one begins")
            self._run_id = None
            return
        self.experiment.update_run(self._run_id, status="RUNNING")
        self.earlier_facts = run.data.params
        histories = {key: self.experiment.get_metric_history(self._run_id, key) for key in run.data.metrics}
        values = {key: {metric.step: metric.value for metric in history} for key, history in histories.items()}
        self.already = Already(self.title, values)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        named = {acceptable(key): value for key, value in metrics.items()}
        items = list(self.already.new(named, step or 0).items())
        for start in range(0, len(items), METRICS_A_CALL):
            super().log_metrics(dict(items[start : start + METRICS_A_CALL]), step)

    def log_facts(self, facts: Mapping[str, Any]) -> None:
        """MLflow's parameters, which never change; what a run that goes on has changed becomes a tag."""
        named = {acceptable(key): value for key, value in facts.items()}
        changed = {
            key: str(value)[:250]
            for key, value in named.items()
            if self.earlier_facts.get(key, str(value)[:250]) != str(value)[:250]
        }
        super().log_facts({key: value for key, value in named.items() if key not in changed})
        for key, value in changed.items():
            self.experiment.set_tag(self.run_id, f"resumed/{key}", value)

    def log_image(self, key: str, images: list[Any], step: int | None = None, **kwargs: Any) -> None:
        for index, image in enumerate(images):
            name = key if len(images) == 1 else f"{key}_{index}"
            self.experiment.log_image(self.run_id, image, f"{name}_step_{step}.png")

    def log_markdown(self, key: str, markdown: str, step: int) -> bool:
        self.experiment.log_text(self.run_id, markdown, f"{key}_step_{step}.md")
        return True

    def log_matrix(self, key: str, table: Table, beside: Mapping[str, float], step: int) -> bool:
        self.experiment.log_dict(self.run_id, {**beside, "table": table}, f"{key}_step_{step}.json")
        return True

    def log_page(self, key: str, page: Path, step: int) -> bool:
        self.experiment.log_artifact(self.run_id, str(page), key)
        return True

    def log_final_metrics(self, metrics: Mapping[str, float]) -> None:
        self.log_metrics({f"final/{key}": value for key, value in metrics.items()}, 0)

    def finalize(self, status: str = "success") -> None:
        """Lightning calls this after fit, and the test comes after it: `close` ends the run."""
        self.status = status

    def close(self) -> None:
        super().finalize(self.status)


def acceptable(key: str) -> str:
    """A key as MLflow takes it; what is replaced leaves a digest, so that different keys stay apart."""
    replaced = re.sub(r"[^A-Za-z0-9_/. -]", "_", key)
    return key if replaced == key else f"{replaced}.{hashlib.sha256(key.encode()).hexdigest()[:4]}"
