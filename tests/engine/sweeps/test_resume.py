"""Sweeps that are killed and started again."""

import csv
import hashlib
import threading
from pathlib import Path
from typing import NamedTuple

import pytest
from filelock import FileLock
from sweeping import Outcome, figures, read, summary, sweep, sweep_until, wait_for

from image_classifier.engine.sweeps.jobs import claim_directory, find_job, jobs_of, read_job, write_record

SETTINGS = ("logger=csv", "trainer.max_epochs=100", "callbacks.early_stopping=null")


class Resumed(NamedTuple):
    directory: Path
    before: dict[str, str]  # digests of all files when the sweep was killed
    outcome: Outcome  # of the second sweep


def digests(directory: Path) -> dict[str, str]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> Resumed:
    """A sweep of rates 0.003 and 0.01 killed in its second job, then started again with a third, in another order."""
    directory = tmp_path_factory.mktemp("resume") / "sweep"
    rows, checkpoint = directory / "1" / "csv" / "metrics.csv", directory / "1" / "checkpoints" / "last.ckpt"
    sweep_until(lambda: rows.is_file() and checkpoint.is_file(), directory, *SETTINGS, "model.optimizer.lr=0.003,0.01")
    assert not (directory / "1" / "metrics.json").exists(), "the job was over before it could be killed"
    before = digests(directory)
    outcome = sweep(directory, *SETTINGS, "model.optimizer.lr=0.02,0.01,0.003")
    return Resumed(directory, before, outcome)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Job 0 is job 1 of the killed sweep."""
    directory = tmp_path_factory.mktemp("undisturbed")
    assert sweep(directory, *SETTINGS, "model.optimizer.lr=0.01").status == 0
    return directory


@pytest.mark.slow
def test_finished_jobs_are_skipped_and_untouched(resumed: Resumed) -> None:
    assert "Finished earlier" in resumed.outcome.output and resumed.outcome.status == 0
    kept = {name: digest for name, digest in resumed.before.items() if name.startswith("0/")}
    changed = {name for name, digest in digests(resumed.directory).items() if kept.get(name, digest) != digest}
    assert kept and changed <= {"0/.hydra/hydra.yaml"}  # the job has another number now


@pytest.mark.slow
def test_the_killed_job_goes_on_from_its_last_checkpoint(resumed: Resumed, undisturbed: Path) -> None:
    assert "Resuming from" in (resumed.directory / "1" / "train.log").read_text()
    assert read(resumed.directory / "1" / "job.json")["state"] == "finished"
    assert figures(resumed.directory / "1") == pytest.approx(figures(undisturbed / "0"), rel=1e-6)


@pytest.mark.slow
def test_what_the_killed_job_logged_goes_on_in_one_file(resumed: Resumed) -> None:
    run_dir = resumed.directory / "1"
    assert [path.name for path in (run_dir / "csv").glob("metrics*.csv")] == ["metrics.csv"]
    with (run_dir / "csv" / "metrics.csv").open(newline="") as file:
        steps = [int(row["step"]) for row in csv.DictReader(file) if row["val/acc"]]
    assert steps == sorted(set(steps)) and len(steps) == figures(run_dir)["epochs"]


@pytest.mark.slow
def test_new_values_get_new_directories_whatever_their_number(resumed: Resumed) -> None:
    rates = {job.directory.name: job.settings["model.optimizer.lr"] for job in jobs_of(resumed.directory)}
    assert rates == {"0": "0.003", "1": "0.01", "2": "0.02"}
    assert {row["state"] for row in summary(resumed.directory)} == {"finished"}


@pytest.mark.sampled(every=3)
@pytest.mark.parametrize("damage", ["truncated", "missing", "none"])
def test_a_checkpoint_is_used_only_when_it_is_whole(undisturbed: Path, damage: str) -> None:
    """Killed between the last epoch and `metrics.json`."""
    run_dir = undisturbed / "0"
    expected = figures(run_dir)
    (run_dir / "metrics.json").unlink()
    (run_dir / "train.log").write_text("")
    checkpoint = run_dir / "checkpoints" / "last.ckpt"
    if damage == "truncated":
        checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    if damage == "missing":
        checkpoint.unlink()
    assert sweep(undisturbed, *SETTINGS, "model.optimizer.lr=0.01").status == 0
    assert ("Resuming from" in (run_dir / "train.log").read_text()) == (damage == "none")
    found = figures(run_dir)
    assert found["epochs"] == expected["epochs"]
    assert {key: found[key] for key in found if not key.startswith("train/")} == pytest.approx(
        {key: value for key, value in expected.items() if not key.startswith("train/")}, rel=1e-6
    )


def test_jobs_are_found_by_their_overrides_in_any_order(tmp_path: Path) -> None:
    first = claim_directory(tmp_path, 0, ["a=1", "b=2"])
    assert first.name == "0"
    assert claim_directory(tmp_path, 7, ["b=2", "a=1"]) == first
    assert claim_directory(tmp_path, 0, ["a=1", "b=3"]).name == "1"
    assert claim_directory(tmp_path, 5, ["a=2"]).name == "5"
    assert claim_directory(tmp_path, 5, ["a=3"]).name == "6"
    assert find_job(tmp_path, ["a=9"]) is None


def test_a_directory_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "notes.txt").write_text("mine")
    assert claim_directory(tmp_path, 0, ["a=1"]).name == "1"
    assert [path.name for path in (tmp_path / "0").iterdir()] == ["notes.txt"]


def test_claims_at_the_same_time_never_share_a_directory(tmp_path: Path) -> None:
    claimed: list[Path] = []
    barrier = threading.Barrier(8)

    def claim(number: int) -> None:
        barrier.wait()
        claimed.append(claim_directory(tmp_path, number % 2, [f"a={number}"]))

    threads = [threading.Thread(target=claim, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(claimed)) == 8
    assert {job.settings["a"] for job in jobs_of(tmp_path)} == {str(number) for number in range(8)}


def test_a_job_that_another_process_still_runs_is_waited_for(tmp_path: Path) -> None:
    """As when only the sweep was killed, and the cluster goes on with its jobs."""
    assert sweep(tmp_path, "model.optimizer.lr=0.01").status == 0
    metrics = (tmp_path / "0" / "metrics.json").read_text()
    (tmp_path / "0" / "metrics.json").unlink()
    lock = FileLock(tmp_path / "0" / ".lock")
    lock.acquire()
    outcomes: list[Outcome] = []
    thread = threading.Thread(target=lambda: outcomes.append(sweep(tmp_path, "model.optimizer.lr=0.01")))
    thread.start()
    wait_for(lambda: "Waiting" in (tmp_path / "0" / "train.log").read_text())
    (tmp_path / "0" / "metrics.json").write_text(metrics)
    lock.release()
    thread.join()
    assert "Finished earlier" in outcomes[0].output and "Epoch" not in outcomes[0].output


def test_states_of_a_job_follow_from_its_files(tmp_path: Path) -> None:
    directory = claim_directory(tmp_path, 0, ["a=1"])

    def state() -> tuple[str, bool]:
        job = read_job(directory)
        assert job is not None
        return job.state, job.done

    assert state() == ("unfinished", False)
    write_record(directory, ["a=1"], state="running")
    assert state() == ("unfinished", False)
    write_record(directory, ["a=1"], state="failed", reason="out of memory")
    assert state() == ("failed", False)
    write_record(directory, ["a=1"], state="running", reason="")
    (directory / "metrics.json").write_text('{"val/acc": 0.5}')  # killed right after this
    assert state() == ("finished", True)
