"""The jobs of a sweep on disk: which directory belongs to which overrides, and how far each job got.

The number of a job is only where its directory is tried first. What identifies a job are its overrides, so a sweep
that is started again finds its jobs in whatever order they come.
"""

import itertools
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from image_classifier.engine.runs.files import write_json
from image_classifier.engine.secrets import hidden_overrides

RECORD = "job.json"


@dataclass(frozen=True)
class Job:
    """What is known of a job.

    Attributes:
        directory: Its run directory.
        overrides: Its overrides, those that are the same in all jobs included.
        state: "finished", "pruned", "failed", or "unfinished" (still running, or killed).
        reason: Why it failed.
        identity: Random letters that stay the same when it is repeated.
        seconds: Duration of its last complete attempt.
        metrics: Final figures; empty unless it is finished or pruned.
    """

    directory: Path
    overrides: list[str]
    state: str
    reason: str
    identity: str
    seconds: float | None
    metrics: dict[str, float]

    @property
    def done(self) -> bool:
        return self.state in ("finished", "pruned")

    @property
    def settings(self) -> dict[str, str]:
        """Overrides by key."""
        pairs = (override.partition("=") for override in self.overrides)
        return {key.lstrip("+~"): value for key, _, value in pairs}


def read_job(directory: Path) -> Job | None:
    """The job of a directory, or None when the directory is none of a job's."""
    record = read_json(directory / RECORD)
    if record is None:
        return None
    metrics = read_json(directory / "metrics.json")
    state = "pruned" if record.get("pruned_after_epochs") else "finished"
    if metrics is None:
        state = "failed" if record["state"] == "failed" else "unfinished"
    reason = record["reason"] if state == "failed" else "ended before its end" if state == "unfinished" else ""
    return Job(directory, record["overrides"], state, reason, record["identity"], record["seconds"], metrics or {})


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None


def write_record(directory: Path, overrides: Sequence[str], **changes: Any) -> None:
    """Write what `read_job` reads, keeping what does not change."""
    record = read_json(directory / RECORD) or {"identity": os.urandom(6).hex(), "seconds": None}
    fresh = {"state": "waiting", "reason": ""}
    write_json(directory / RECORD, {**fresh, **record, "overrides": hidden_overrides(overrides), **changes})


def jobs_of(sweep_dir: Path) -> Iterator[Job]:
    """The jobs of a sweep by number."""
    paths = [path.parent for path in sweep_dir.glob(f"[!.]*/{RECORD}")]
    for path in sorted(paths, key=lambda path: (not path.name.isdigit(), path.name.zfill(9))):
        job = read_job(path)
        assert job is not None
        yield job


def find_job(sweep_dir: Path, overrides: Sequence[str]) -> Job | None:
    """The job with the same overrides in any order."""
    wanted = sorted(hidden_overrides(overrides))
    return next((job for job in jobs_of(sweep_dir) if sorted(job.overrides) == wanted), None)


def claim_directory(sweep_dir: Path, number: int, overrides: Sequence[str]) -> Path:
    """The directory of the job with these overrides: the one it has, else `<number>`, else the next free number.

    Safe when several processes claim at once, and when one is killed while it claims.
    """
    found = find_job(sweep_dir, overrides)
    if found is not None:
        return found.directory
    staging = sweep_dir / f".claim-{os.urandom(16).hex()}"
    write_record(staging, overrides)
    taken = [int(path.name) for path in sweep_dir.iterdir() if path.name.isdigit()]
    for candidate in itertools.chain([number], itertools.count(max(taken, default=-1) + 1)):
        directory = sweep_dir / str(candidate)
        try:
            staging.rename(directory)  # replaces nothing but an empty directory
        except OSError:
            if not directory.exists():
                raise
        else:
            return directory
    raise AssertionError("unreachable")


def job_directory(*, _root_: DictConfig) -> str:
    """Resolver for `hydra.sweep.subdir`."""
    overrides = OmegaConf.to_container(_root_.hydra.overrides.task)
    assert isinstance(overrides, list)
    return claim_directory(Path(_root_.hydra.sweep.dir), _root_.hydra.job.num, overrides).name
