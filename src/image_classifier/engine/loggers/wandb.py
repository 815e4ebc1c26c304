"""Weights & Biases, which works without a key, a terminal or a network by going offline by itself."""

import base64
import contextlib
import http.client
import json
import netrc
import os
import re
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import pytorch_lightning.loggers as pl_loggers
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from image_classifier.engine.errors import UserError
from image_classifier.engine.loggers.already import Already, Recent
from image_classifier.engine.loggers.base import RunLogger, Table, shortened
from image_classifier.engine.loggers.guard import reason_of
from image_classifier.engine.loggers.wandb_files import EarlierRun, earlier_run
from image_classifier.engine.terminal import say, shell_joined

# Seconds to wait for the server: before a run goes offline; while a run is opened; for the last upload. The whole start
# takes less than 15, the end less than 30.
CONNECT_TIMEOUT, INIT_TIMEOUT, FINISH_TIMEOUT = 4.0, 6.0, 15.0


Mode = Literal["auto", "online", "offline", "disabled"]


class WandbLogger(RunLogger, pl_loggers.WandbLogger):
    """Logs to W&B under `<run_dir>/wandb`, online only when a key is there and the server answers.

    Args:
        run_dir: Run directory.
        project: W&B project.
        mode: "auto", "online", "offline" or "disabled"; the variable WANDB_MODE goes before "auto".
        settings: Further arguments of `wandb.init`, such as entity, group, name, tags.
    """

    title = "W&B"
    remote = True
    keeps_a_copy = True
    data_dir: str | None = None  # WANDB_DATA_DIR, where it is ours

    def __init__(self, run_dir: str, project: str, mode: Mode = "auto", **settings: Any) -> None:
        if found := sorted(set("/\\#?%:") & set(project)) or project[128:]:
            raise UserError(
                f"expected a W&B project of at most 128 characters without / \\ # ? % : but found {''.join(found)!r} "
                f"in {project!r}; choose another: logger.wandb.project=NAME"
            )
        super().__init__(save_dir=run_dir, project=project, **within_limits(settings))
        self.directory: Path | None = None  # of the run, once it has started
        del self._wandb_init["anonymous"]  # W&B warns about it, even when it is None
        self.mode: Any = os.environ.get("WANDB_MODE") if mode == "auto" else mode
        self.already = Already()
        self.recent = Recent()
        self.earlier: EarlierRun | None = None  # that this one goes on

    def mark(self) -> Any:
        """The last rows: W&B's helper process writes its file once a second, and a kill ends it too."""
        return self.recent.mark()

    def go_on(self, mark: Any, step: int) -> None:
        """Go on under the id of the last run in this directory; a service that has rows keeps them."""
        self.earlier = earlier_run(Path(str(self._save_dir)) / "wandb")
        if self.earlier is not None:
            self._wandb_init |= {"id": self.earlier.id, "resume": "allow"}
            self.already = Already(self.title, self.earlier.values())
            for metrics, logged_at in mark or ():
                self.log_metrics(metrics, logged_at)

    def start_anew(self) -> None:
        """A job of a sweep keeps its id: what was logged before its first checkpoint is not logged again."""
        earlier = earlier_run(Path(str(self._save_dir)) / "wandb")
        if earlier is not None and earlier.id == self._wandb_init.get("id"):
            self.earlier, self.already = earlier, Already(self.title, earlier.values())

    @property
    def experiment(self) -> Any:
        if self._experiment is None and getattr(rank_zero_only, "rank", 0) == 0:
            self._start()
        return super().experiment

    def _start(self) -> None:
        os.environ.setdefault("WANDB_SILENT", "true")  # before the first import; else it speaks of keys and servers
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # a report of W&B's own errors may wait for a server
        import wandb

        reason = "WANDB_MODE or logger.wandb.mode says so"
        if self.mode is None:
            reason = why_offline()
            self.mode = "offline" if reason else "online"
        # Staged tables would otherwise be left in the user's data directory.
        if os.environ.get("WANDB_DATA_DIR") in (None, WandbLogger.data_dir):  # that of an earlier job is not this one's
            WandbLogger.data_dir = os.environ["WANDB_DATA_DIR"] = str(Path(str(self._save_dir)) / "wandb")
        Path(str(self._save_dir)).mkdir(parents=True, exist_ok=True)
        # A short flush interval: whatever is not flushed when a run is killed is lost.
        self._wandb_init["settings"] = wandb.Settings(
            console="off",
            silent=True,
            init_timeout=INIT_TIMEOUT,
            finish_timeout=FINISH_TIMEOUT,
            x_transaction_log_flush_interval=1,
            x_disable_stats=self.mode != "online",
        )
        earlier = set(Path(str(self._save_dir), "wandb").glob("run-*"))
        try:
            self._experiment = self.init()
        except Exception as error:  # of W&B, or of the connection to its helper process
            if self.mode != "online":
                raise
            self.mode, reason = "offline", reason_of(error)
            let_go_of_helper()
            for attempt in set(Path(str(self._save_dir), "wandb").glob("run-*")) - earlier:
                shutil.rmtree(attempt, ignore_errors=True)
            self._experiment = self.init()
        self.directory = Path(self._experiment.dir).parent if self.mode != "disabled" else None
        if self.earlier is not None and self.mode == "offline":  # online, the server says how many rows there are
            self._experiment.log({}, step=self.earlier.last_row + 1)
        self._experiment.define_metric("trainer/global_step")
        self._experiment.define_metric("*", step_metric="trainer/global_step", step_sync=True)
        if self.earlier is not None and self.mode == "online":
            self.return_what_was_lost(self.earlier)
        if self.mode == "offline":
            say(f"W&B logs offline ({reason}). Upload the run later with: {self.sync_command()}")
        elif self.mode == "online":
            say(f"W&B run: {self._experiment.url}")

    def return_what_was_lost(self, earlier: EarlierRun) -> None:
        """Log again what a kill kept from the server: W&B sends its rows every fifteen seconds.

        Numbers alone: pictures and tables of these seconds lie in the earlier part of the run, on this disk.
        """
        assert self._experiment is not None
        first = self._experiment.starting_step  # of this part: the server has those before
        for row in earlier.lost(first):
            self._experiment.log(row)
        self.already.values = earlier.values(lost_from=first)

    def init(self) -> Any:
        """Open a run. What W&B's helper process says when it crashes goes to a file beside the run's."""
        import wandb

        log = Path(str(self._save_dir)) / "wandb" / "helper.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        if self.mode != "disabled":
            with stderr_of_children(log):
                wandb.setup()
        return wandb.init(mode=self.mode, **self._wandb_init)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if step is None or (metrics := self.already.new(metrics, step)):
            super().log_metrics(metrics, step)
            if step is not None:
                self.recent.add(metrics, step)

    def log_image(self, key: str, images: list[Any], step: int | None = None, **kwargs: Any) -> None:
        if not self.already.has(key, step):
            super().log_image(key, images, step, **kwargs)

    def log_matrix(self, key: str, table: Table, beside: Mapping[str, float], step: int) -> bool:
        figures = {f"{key}/{name}": value for name, value in beside.items()}
        if not self.already.has(f"{key}/{next(iter(beside))}", step):
            self.experiment.log({key: table, **figures, "trainer/global_step": step})
            self.recent.add(figures, step)
        return True

    def log_matrix_chart(self, key: str, table: Table, title: str, step: int) -> bool:
        import wandb

        if self.already.has(f"{key}_table", step):
            return True
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
        if not self.already.has(key, step):
            self.log_table(key, columns=list(columns), data=[list(row) for row in rows], step=step)
        return True

    def log_page(self, key: str, page: Path, step: int) -> bool:
        import wandb

        if self.already.has(key, step):
            return True
        self.experiment.log({key: wandb.Html(str(page), inject=False), "trainer/global_step": step})
        return True

    def log_facts(self, facts: Mapping[str, Any]) -> None:
        self.experiment.config.update(dict(facts), allow_val_change=True)

    def log_final_metrics(self, metrics: Mapping[str, float]) -> None:
        self.experiment.summary.update({f"final/{key}": value for key, value in metrics.items()})

    def close(self) -> None:
        experiment, self._experiment = self._experiment, None
        if experiment is not None:
            experiment.finish()

    def rescue(self) -> str:
        return f"upload its files with: {self.sync_command()}" if self.directory else ""

    def sync_command(self) -> str:
        parts = [*(self.earlier.directories if self.earlier else ()), self.directory]
        return shell_joined(["wandb", "sync", *map(str, parts)])

    def abandon(self) -> None:
        let_go_of_helper()


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
    key = os.environ.get("WANDB_API_KEY", "")
    with contextlib.suppress(OSError, netrc.NetrcParseError):
        key = key or (netrc.netrc(os.environ.get("NETRC")).authenticators(host) or ("", "", ""))[2]
    if not key:
        return "no API key found"
    try:
        return why_refused(f"{server.scheme}://{server.netloc}/graphql", key, host)
    except urllib.error.HTTPError as error:
        return f"{host} answers {error.code}"
    except (OSError, http.client.HTTPException) as error:
        return f"{host} does not answer: {reason_of(error)}"


def why_refused(url: str, key: str, host: str) -> str:
    """Ask the server who the owner of the key is; why its answer is none, or empty."""
    token = base64.b64encode(f"api:{key}".encode()).decode()
    headers = {"Content-Type": "application/json", "Authorization": f"Basic {token}", "User-Agent": "image-classifier"}
    request = urllib.request.Request(url, json.dumps({"query": "query Viewer { viewer { id } }"}).encode(), headers)
    with urllib.request.urlopen(request, timeout=CONNECT_TIMEOUT) as answer:
        content = answer.read(2**20)
    try:
        data = json.loads(content)["data"]
    except (ValueError, KeyError, TypeError):
        return f"{host} does not answer as W&B does"
    return "" if isinstance(data, dict) and isinstance(data.get("viewer"), dict) else f"{host} does not know the key"


@contextlib.contextmanager
def stderr_of_children(path: Path) -> Iterator[None]:
    """Let processes that start in the block write their errors to a file."""
    sys.stderr.flush()
    terminal = os.dup(2)
    try:
        with path.open("ab") as file:
            os.dup2(file.fileno(), 2)
            yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)


def let_go_of_helper() -> None:
    """End W&B's helper process, so that nothing waits for it or complains of it at the end of the command.

    Of wandb 0.31: the process is private to it; without this, a command whose helper hangs ends late, or with W&B's
    own traceback (tests/engine/loggers/test_failing_loggers.py).
    """
    import wandb
    from wandb.sdk import wandb_setup

    connection = wandb_setup._singleton._connection if wandb_setup._singleton else None
    if connection is not None and connection._proc is not None:
        connection._proc._process.kill()
    with contextlib.suppress(Exception, SystemExit):
        wandb.teardown()
