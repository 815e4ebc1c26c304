"""What a sweep leaves behind: a ranked table, a picture, the command that repeats the best job, an exit status."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from hydra.utils import get_class
from omegaconf import DictConfig

from image_classifier.engine.confusion.tables import csv_text, markdown_text
from image_classifier.engine.errors import UserError
from image_classifier.engine.overrides import quoted
from image_classifier.engine.runs.files import write_atomically
from image_classifier.engine.runs.provenance import command_of_job
from image_classifier.engine.secrets import hidden_overrides
from image_classifier.engine.sweeps.job import JobError
from image_classifier.engine.sweeps.jobs import Job, jobs_of
from image_classifier.engine.sweeps.objectives import objectives
from image_classifier.engine.sweeps.ranking import rank_jobs, swept_settings, table_rows
from image_classifier.engine.terminal import say, shell_quoted
from image_classifier.engine.terminal_tables import Table, console

COMMANDS_SHOWN = 5  # a sweep with several objectives has several best jobs

Ranked = Sequence[tuple[int | None, Job]]


class SweepReport(Callback):
    """Hydra callback; in `configs/hydra/default.yaml`."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        launcher = config.hydra.launcher._target_
        if launcher.startswith(f"{__package__}."):
            Plugins.instance().register(get_class(launcher))  # Hydra knows only what lies in `hydra_plugins`
        say(f"Sweep directory: {Path(config.hydra.sweep.dir)}")

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Let go of a job's configurations, and of its secrets.

        Hydra's launcher keeps what each job returns until the sweep ends. Its configurations took 0.25 MB (Hydra 1.4),
        and no sweeper reads them; its overrides are printed when it fails.
        """
        job_return.overrides = hidden_overrides(job_return.overrides or ())
        job_return.cfg = job_return.hydra_cfg = None

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        sweep_dir = Path(config.hydra.sweep.dir)
        jobs = list(jobs_of(sweep_dir)) if sweep_dir.is_dir() else []
        if not jobs:
            if sys.exc_info()[1] is None:
                say(
                    "error: expected a sweep of one job or more but found none; give settings values, as seed=1,2",
                    sys.stderr,
                )
                sys.exit(2)
            return
        goals = objectives(config)
        ranked = rank_jobs(jobs, goals)
        write_report(sweep_dir, ranked, goals)
        print_report(sweep_dir, ranked, goals, config.hydra.job.config_name)
        from image_classifier.engine.sweeps.folds import report_folds  # brings torch: not before mistakes are told

        report_folds(sweep_dir, jobs)
        undone = [job for job in jobs if not job.done]
        if undone:
            again = shell_quoted(quoted("hydra.sweep.dir", str(sweep_dir.absolute())))
            say(
                f"{len(undone)} of {len(jobs)} jobs did not finish. The same command with {again} runs these again, "
                "and only these.",
                sys.stderr,
            )
            if isinstance(sys.exc_info()[1], JobError | None):
                sys.exit(1)  # instead of the traceback of the first failed job; any other error is for Hydra to tell


def write_report(sweep_dir: Path, ranked: Ranked, goals: Mapping[str, str]) -> None:
    """Write `sweep_summary.csv`, `.md` and, where settings were swept and jobs finished, `.png`."""
    rows = table_rows(ranked, goals)
    write_atomically(sweep_dir / "sweep_summary.csv", csv_text(rows))
    write_atomically(sweep_dir / "sweep_summary.md", markdown_text(rows))
    jobs = [job for _, job in ranked]
    settings = swept_settings(jobs)
    if settings and any(job.done for job in jobs):
        from image_classifier.engine.figures.sweep import draw_sweep

        draw_sweep(jobs, settings, goals).savefig(sweep_dir / "sweep_summary.png")
    compare_jobs(sweep_dir, ranked)


def compare_jobs(sweep_dir: Path, ranked: Ranked) -> None:
    """Write `comparison.html` over the jobs that finished, best first."""
    from image_classifier.engine.runs.comparison import load_run, write_comparison

    runs, unreadable = [], []
    for _, job in ranked:
        if job.done:
            try:
                runs.append(load_run(job.directory))
            except UserError:
                unreadable.append(job.directory.name)
    if len(runs) < 2:
        return
    unread = f"; the files of job {', '.join(unreadable)} cannot be read" if unreadable else ""
    title = f"Sweep {sweep_dir.resolve().name}: {len(runs)} of {len(ranked)} jobs, best first{unread}"
    say(f"Comparison: {write_comparison(runs, sweep_dir / 'comparison.html', title)}")


def print_report(sweep_dir: Path, ranked: Ranked, goals: Mapping[str, str], config_name: str) -> None:
    rows = table_rows(ranked, goals)
    wide = ("reason", "overrides")
    columns = [column for column in zip(*rows, strict=True) if column[0] not in wide and any(column[1:])]
    headings, *cells = zip(*columns, strict=True)
    table = Table("Jobs, best first", shorten(headings), whole=True)
    for row in cells:
        table.add_row(*row)
    console().print(table)
    for _, job in ranked:
        if job.reason:
            say(f"Job {job.directory.name} {job.state}: {job.reason}")
    best = [job for rank, job in ranked if rank == 1]
    for job in best[:COMMANDS_SHOWN]:
        say(f"Repeat job {job.directory.name}: {command_of_job(config_name, job.overrides)}")
    say(f"Table and picture: {sweep_dir}/sweep_summary.md, .csv, .png")


def shorten(headings: Sequence[str]) -> list[str]:
    """The last part of each dotted key where that says enough."""
    last = [heading.rpartition(".")[2] for heading in headings]
    return [short if last.count(short) == 1 else full for short, full in zip(last, headings, strict=True)]
