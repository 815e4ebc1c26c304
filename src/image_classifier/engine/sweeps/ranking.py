"""The ranked table of a sweep, as rows of text."""

import math
from collections.abc import Mapping, Sequence

from image_classifier.engine.sweeps.jobs import Job
from image_classifier.engine.terminal import shell_joined


def rank_jobs(jobs: Sequence[Job], objectives: Mapping[str, str]) -> list[tuple[int | None, Job]]:
    """Sort jobs from best to worst.

    Args:
        jobs: In any state.
        objectives: "max" or "min" by name of a figure. With several, a job beats another when it is at least as good
            in all of them and better in one.

    Returns:
        Rank and job; the rank is one more than the number of jobs that beat it, or None for a job without figures.
    """
    scores = {id(job): score(job, objectives) for job in jobs}

    def rank(job: Job) -> int | None:
        own = scores[id(job)]
        return None if own is None else 1 + sum(other is not None and beats(other, own) for other in scores.values())

    def order(entry: tuple[int | None, Job]) -> tuple[float, list[float]]:
        return entry[0] or math.inf, [-value for value in scores[id(entry[1])] or ()]

    return sorted(((rank(job), job) for job in jobs), key=order)


def score(job: Job, objectives: Mapping[str, str]) -> tuple[float, ...] | None:
    """The job's figures, turned so that more is better."""
    values = [job.metrics.get(name) for name in objectives]
    if not job.done or any(value is None or math.isnan(value) for value in values):
        return None
    signs = [1 if mode == "max" else -1 for mode in objectives.values()]
    return tuple(sign * value for sign, value in zip(signs, values, strict=True) if value is not None)


def beats(left: tuple[float, ...], right: tuple[float, ...]) -> bool:
    return left != right and all(a >= b for a, b in zip(left, right, strict=True))


def swept_settings(jobs: Sequence[Job]) -> list[str]:
    """Keys of the overrides that are not the same in all jobs."""
    keys = dict.fromkeys(key for job in jobs for key in job.settings)
    return [key for key in keys if len({job.settings.get(key) for job in jobs}) > 1]


def table_rows(ranked: Sequence[tuple[int | None, Job]], objectives: Mapping[str, str]) -> list[list[str]]:
    """A heading, then a row for each job."""
    swept = swept_settings([job for _, job in ranked])
    rows = [["rank", *swept, *objectives, "seconds", "state", "reason", "directory", "overrides"]]
    for rank, job in ranked:
        figures = [f"{job.metrics[name]:.7g}" if name in job.metrics else "" for name in objectives]
        settings = [job.settings.get(key, "") for key in swept]
        seconds = "" if job.seconds is None else f"{job.seconds:.1f}"
        facts = [seconds, job.state, job.reason, job.directory.name, shell_joined(job.overrides)]
        rows.append([str(rank or ""), *settings, *figures, *facts])
    return rows
