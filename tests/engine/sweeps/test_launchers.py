"""Launchers that run each job in another process: joblib, submitit, and a real Slurm."""

import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import joblib
import optuna
import pytest
from omegaconf import OmegaConf
from optuna.trial import TrialState
from slurm import slurm
from sweeping import TINY, Outcome, figures, read, summary, sweep, wait_for

from image_classifier.engine.project import PROJECT_ROOT

pytestmark = pytest.mark.slow


def check_like_in_process(directory: Path, in_process: Path) -> None:
    assert {row["state"] for row in summary(directory)} == {"finished"}
    for job in ("0", "1"):
        assert figures(directory / job) == pytest.approx(figures(in_process / job), rel=1e-6)


@pytest.fixture(scope="module")
def in_process(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("in_process")
    assert sweep(directory, "model.optimizer.lr=0.003,0.01").status == 0
    return directory


def test_joblib_gives_each_job_its_share_of_the_processors(
    tmp_path: Path, in_process: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    launcher = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    outcome = sweep(tmp_path, *launcher, "model.optimizer.lr=0.003,0.01,1e30")
    assert outcome.status == 1 and "nan" in read(tmp_path / "2" / "job.json")["reason"]
    share = max(joblib.cpu_count() // 2, 1)
    assert [read(tmp_path / job / "job.json")["threads"] for job in "012"] == [share] * 3
    for job in ("0", "1"):
        assert figures(tmp_path / job) == pytest.approx(figures(in_process / job), rel=1e-6)


def test_submitit_runs_jobs_as_local_processes(tmp_path: Path, in_process: Path) -> None:
    outcome = sweep(tmp_path, "hydra/launcher=submitit_local", "model.optimizer.lr=0.003,0.01")
    assert outcome.status == 0, outcome.errors
    check_like_in_process(tmp_path, in_process)


class ClusterSweeps(NamedTuple):
    environment: dict[str, str]  # in which Slurm's commands find this cluster
    grid: Path
    grid_outcome: Outcome
    study: Path
    study_outcome: Outcome


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterSweeps]:
    """A grid of three jobs, of which the last is killed, and an Optuna sweep, at the same time on a real Slurm."""
    root = tmp_path_factory.mktemp("slurm")
    with slurm(root) as environment:

        def start(directory: Path, *arguments: str) -> subprocess.Popen[str]:
            command = [sys.executable, str(PROJECT_ROOT / "train.py"), "-m", *TINY, f"hydra.sweep.dir={directory}"]
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
            launcher = ["hydra/launcher=submitit_slurm", "hydra.launcher.cpus_per_task=1"]
            return subprocess.Popen([*command, *launcher, *arguments], env=environment, text=True, **pipes)  # type: ignore[call-overload]

        rates = "model.optimizer.lr=0.003,0.01,0.02"
        grid = start(root / "grid", rates, "callbacks.early_stopping=null", "trainer.max_epochs=3")
        space = ["model=mlp", "model.optimizer.lr=tag(log, interval(0.001, 0.1))", "data.batch_size=32"]
        decay = "model.optimizer.weight_decay=0.01"
        study = start(
            root / "study", "sweep=optuna", *space, decay, "hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=2"
        )
        try:
            wait_for((root / "grid" / "multirun.yaml").is_file, grid)
            cancel_last_job(environment)
            outcomes = [finish(process) for process in (grid, study)]
        finally:
            for process in (grid, study):
                process.kill()
        yield ClusterSweeps(environment, root / "grid", outcomes[0], root / "study", outcomes[1])


def cancel_last_job(environment: dict[str, str]) -> None:
    """Kill task 2 of the grid with SIGKILL as soon as it runs, again until it is gone: a signal may come before it."""
    signalled = False

    def killed() -> bool:
        nonlocal signalled
        query = ["squeue", "-h", "-r", "-t", "RUNNING", "-o", "%F_%K %K"]  # %A of one task is that of the whole array
        running = subprocess.run(query, env=environment, capture_output=True, text=True, check=True).stdout.split("\n")
        chosen = [line.split()[0] for line in running if line.endswith(" 2")]
        for job in chosen:
            # Not checked: it may be gone since the query. Whether it was killed is what the tests look at.
            subprocess.run(["scancel", "--full", "--signal=KILL", job], env=environment, capture_output=True)
            signalled = True
        return signalled and not chosen

    wait_for(killed)


def finish(process: subprocess.Popen[str]) -> Outcome:
    output, errors = process.communicate(timeout=240)
    return Outcome(process.returncode, output, errors)


@pytest.mark.needs("slurm")
def test_slurm_runs_a_grid_and_reports_the_killed_job(cluster: ClusterSweeps, in_process: Path) -> None:
    rows = {row["model.optimizer.lr"]: row for row in summary(cluster.grid)}
    assert [rows[rate]["state"] for rate in ("0.003", "0.01", "0.02")] == ["finished", "finished", "failed"]
    assert "ended without a result" in rows["0.02"]["reason"]
    assert cluster.grid_outcome.status == 1 and "1 of 3 jobs did not finish" in cluster.grid_outcome.errors
    for job in ("0", "1"):
        assert figures(cluster.grid / job) == pytest.approx(figures(in_process / job), rel=1e-6)


@pytest.mark.needs("slurm")
def test_slurm_runs_an_optuna_sweep(cluster: ClusterSweeps) -> None:
    assert cluster.study_outcome.status == 0, cluster.study_outcome.errors
    study = optuna.load_study(study_name="sweep", storage=f"sqlite:///{cluster.study}/optuna.db")
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 2
    assert all(list(trial.intermediate_values) == [1, 2, 3] for trial in study.trials)  # reported from inside the jobs
    assert {row["state"] for row in summary(cluster.study)} == {"finished"}
    best = summary(cluster.study)[0]
    assert float(best["val/acc"]) == pytest.approx(study.best_value)
    assert f"model.optimizer.lr={study.best_params['model.optimizer.lr']}" in shlex.split(best["overrides"])


@pytest.mark.needs("slurm")
def test_the_slurm_script_trains_with_a_process_for_each_task(cluster: ClusterSweeps, tmp_path: Path) -> None:
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / "train.py").symlink_to(PROJECT_ROOT / "train.py")
    sizes = ["--nodes=1", "--ntasks-per-node=2", "--gpus-per-node=0", "--cpus-per-task=1"]
    script = [str(PROJECT_ROOT / "scripts" / "slurm_train.sh"), "trainer.accelerator=cpu"]
    overrides = [override for override in TINY if override != "trainer=cpu"]
    command = ["sbatch", "--wait", f"--output={tmp_path}/job.log", *sizes, *script, *overrides]
    done = subprocess.run(command, cwd=tmp_path, env=cluster.environment, capture_output=True, text=True, timeout=240)
    output = (tmp_path / "job.log").read_text() if (tmp_path / "job.log").exists() else ""
    assert done.returncode == 0, done.stderr + output
    assert output.count("Final figures") == 1, "the second task is silent"
    (run_dir,) = (tmp_path / "outputs" / "train").glob("slurm_*")
    assert figures(run_dir)["epochs"] == 3
    assert OmegaConf.load(run_dir / "config.yaml").trainer.devices == 2
