"""Optuna sweeps: direction, pruning, resuming, pictures, several objectives."""

import json
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import optuna
import pytest
from matplotlib import rcParams
from optuna.study import Study, StudyDirection
from optuna.trial import TrialState
from PIL import Image
from sweeping import Outcome, figures, read, summary, sweep, sweep_until

from image_classifier.engine.sweeps.jobs import jobs_of

SPACE = (
    "model=mlp",
    "model.optimizer.lr=tag(log, interval(0.00001, 0.1))",
    "model.optimizer.weight_decay=0.01",
    "data.batch_size=choice(16, 32)",
    "data.val_size=100",
    "data.num_samples=400",
)
TRIALS = 7
PRUNED = (
    "sweep=optuna",
    *SPACE,
    "trainer.max_epochs=6",
    f"hydra.sweeper.n_trials={TRIALS}",
    "pruning=successive_halving",
)


def load(directory: Path) -> Study:
    return optuna.load_study(study_name="sweep", storage=f"sqlite:///{directory}/optuna.db")


class Finished(NamedTuple):
    directory: Path
    outcome: Outcome
    study: Study


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    directory = tmp_path_factory.mktemp("optuna") / "pruned"
    outcome = sweep(directory, *PRUNED)
    return Finished(directory, outcome, load(directory))


def test_every_trial_has_the_value_of_its_job(pruned: Finished) -> None:
    assert pruned.outcome.status == 0
    assert pruned.study.direction == StudyDirection.MAXIMIZE
    values = [trial.value for trial in pruned.study.trials]
    found = [figures(pruned.directory / str(number))["val/acc"] for number in range(TRIALS)]
    assert values == pytest.approx(found)
    assert float(summary(pruned.directory)[0]["val/acc"]) == pytest.approx(pruned.study.best_value)


def test_jobs_that_fall_behind_stop_early(pruned: Finished) -> None:
    rows = {row["directory"]: row for row in summary(pruned.directory)}
    stopped = [number for number in rows if rows[number]["state"] == "pruned"]
    assert 1 <= len(stopped) < TRIALS - 1
    for trial in pruned.study.trials:
        trained = figures(pruned.directory / str(trial.number))["epochs"]
        # Values are reported epoch by epoch, from epoch 1, and the last of them is the last epoch trained.
        assert list(trial.intermediate_values) == list(range(1, int(trained) + 1))
        assert (trained < 6) == (str(trial.number) in stopped)
        assert trial.value == pytest.approx(max(trial.intermediate_values.values()))
    assert rows[str(pruned.study.best_trial.number)]["state"] == "finished"


def test_pictures_are_saved(pruned: Finished) -> None:
    for name in ("optuna_history", "optuna_importances", "optuna_parallel", "sweep_summary"):
        with Image.open(pruned.directory / f"{name}.png") as picture:
            assert min(picture.size) > 100 and len(picture.convert("RGB").getcolors(1 << 20)) > 10
    from matplotlib._pylab_helpers import Gcf

    assert not Gcf.figs  # none is left to pyplot
    assert rcParams["axes.facecolor"] == "white"  # and none of Optuna's style to other figures


def test_a_finished_study_is_left_alone(pruned: Finished) -> None:
    outcome = sweep(pruned.directory, *PRUNED)
    assert outcome.status == 0 and f"{TRIALS} trials; 0 are left" in outcome.output
    assert len(load(pruned.directory).trials) == TRIALS


@pytest.mark.slow
def test_more_trials_are_new_ones(pruned: Finished) -> None:
    """The seed is the same; the same seed must not draw the same trials again."""
    sweep(pruned.directory, *PRUNED, f"hydra.sweeper.n_trials={TRIALS + 2}")
    trials = load(pruned.directory).trials
    assert len(trials) == TRIALS + 2
    assert max(Counter(json.dumps(trial.params) for trial in trials).values()) == 1
    assert sorted(job.directory.name for job in jobs_of(pruned.directory)) == sorted(map(str, range(TRIALS + 2)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "pruner",
    [
        pytest.param(["pruning=median", "callbacks.pruning.pruner.n_startup_trials=1"], marks=pytest.mark.thorough),
        ["pruning=hyperband", "callbacks.pruning.pruner.max_resource=2", "callbacks.pruning.pruner.reduction_factor=2"],
    ],
    ids=["median", "hyperband"],
)
def test_pruners_by_configuration(tmp_path: Path, pruner: list[str]) -> None:
    """A good job, then jobs that cannot learn. Successive halving is the pruner of the sweep above."""
    study = optuna.create_study(study_name="sweep", storage=f"sqlite:///{tmp_path}/optuna.db", direction="maximize")
    rates = [0.01, 1e-7, 2e-7]
    for rate in rates:
        study.enqueue_trial({"model.optimizer.lr": rate})
    settings = [*SPACE, "data.batch_size=16", "model.optimizer.lr=interval(0.0, 0.1)", "trainer.max_epochs=4"]
    outcome = sweep(tmp_path, "sweep=optuna", *pruner, *settings, "hydra.sweeper.n_trials=3")
    assert outcome.status == 0, outcome.errors
    jobs = list(jobs_of(tmp_path))
    assert [float(job.settings["model.optimizer.lr"]) for job in jobs] == rates
    assert jobs[0].metrics["epochs"] == 4 and any(job.metrics["epochs"] < 4 for job in jobs[1:])
    assert all((job.metrics["epochs"] < 4) == (job.state == "pruned") for job in jobs)


@pytest.mark.slow
@pytest.mark.thorough
def test_all_processes_of_a_pruned_job_stop(tmp_path: Path) -> None:
    study = optuna.create_study(study_name="sweep", storage=f"sqlite:///{tmp_path}/optuna.db", direction="maximize")
    for rate in (0.01, 1e-7):
        study.enqueue_trial({"model.optimizer.lr": rate})
    settings = [*SPACE, "data.batch_size=16", "model.optimizer.lr=interval(0.0, 0.1)", "trainer.max_epochs=4"]
    pruner = ["pruning=median", "callbacks.pruning.pruner.n_startup_trials=1"]
    outcome = sweep(tmp_path, "sweep=optuna", "trainer.devices=2", *pruner, *settings, "hydra.sweeper.n_trials=2")
    assert outcome.status == 0, outcome.errors
    good, bad = jobs_of(tmp_path)
    assert (good.state, good.metrics["epochs"]) == ("finished", 4)
    assert (bad.state, bad.metrics["epochs"]) == ("pruned", 1)
    assert [list(trial.intermediate_values) for trial in study.trials] == [[1, 2, 3, 4], [1]]


def test_a_metric_to_minimize(tmp_path: Path) -> None:
    outcome = sweep(
        tmp_path,
        "sweep=optuna",
        *SPACE,
        "monitor.metric=val/loss",
        "monitor.mode=min",
        "hydra.sweeper.n_trials=2",
        "trainer.max_epochs=1",
    )
    study = load(tmp_path)
    assert study.direction == StudyDirection.MINIMIZE
    assert float(summary(tmp_path)[0]["val/loss"]) == pytest.approx(min(trial.value for trial in study.trials))
    assert "val/loss" in outcome.output


def test_failed_trials_do_not_end_the_sweep(tmp_path: Path) -> None:
    outcome = sweep(
        tmp_path,
        "sweep=optuna",
        *SPACE,
        "model.loss.label_smoothing=choice(0.0, 2.0)",
        "hydra.sweeper.n_trials=4",
        "trainer.max_epochs=1",
    )
    states = Counter(trial.state for trial in load(tmp_path).trials)
    assert states[TrialState.FAIL] > 0 and states[TrialState.COMPLETE] > 0 and sum(states.values()) == 4
    assert outcome.status == 1 and "did not finish" in outcome.errors


@pytest.mark.slow
def test_accuracy_against_parameters(tmp_path: Path) -> None:
    outcome = sweep(tmp_path, "sweep=optuna_multi_objective", "hydra.sweeper.n_trials=4", "trainer.max_epochs=1")
    assert outcome.status == 0, outcome.errors
    study = load(tmp_path)
    assert study.directions == [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE]
    rows = summary(tmp_path)
    assert all(not trial.intermediate_values for trial in study.trials)  # nothing is pruned
    best = sorted({(float(row["val/acc"]), float(row["parameters"])) for row in rows if row["rank"] == "1"})
    expected = sorted({tuple(trial.values) for trial in study.best_trials})
    assert len(best) == len(expected)
    assert best == [pytest.approx(values) for values in expected]
    for row in rows:
        assert float(row["parameters"]) == read(tmp_path / row["directory"] / "metrics.json")["parameters"]
    assert (tmp_path / "optuna_trade_offs.png").is_file()


def test_several_objectives_cannot_be_pruned(tmp_path: Path) -> None:
    outcome = sweep(tmp_path, "sweep=optuna_multi_objective", "pruning=median", "hydra.sweeper.n_trials=1")
    assert outcome.status == 1 and "pruning=none" in read(tmp_path / "0" / "job.json")["reason"]


class Killed(NamedTuple):
    directory: Path
    number: int  # of the trial that was running
    params: dict[str, float]
    outcome: Outcome  # of the second sweep


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Killed:
    """A study of 4 trials killed in its second, then started again."""
    directory = tmp_path_factory.mktemp("killed") / "sweep"
    arguments = ["sweep=optuna", *SPACE, "hydra.sweeper.n_trials=4", "trainer.max_epochs=60"]
    sweep_until((directory / "1" / "checkpoints" / "last.ckpt").is_file, directory, *arguments)
    (trial,) = load(directory).get_trials(states=(TrialState.RUNNING,))
    return Killed(directory, trial.number, trial.params, sweep(directory, *arguments))


@pytest.mark.slow
def test_a_killed_study_runs_the_remainder(killed: Killed) -> None:
    trials = load(killed.directory).trials
    assert killed.outcome.status == 0
    assert [trial.state for trial in trials] == [
        TrialState.FAIL if trial.number == killed.number else TrialState.COMPLETE for trial in trials
    ]
    assert len(trials) == 5  # 4 and the killed one


@pytest.mark.slow
def test_the_killed_trial_is_repeated_from_its_checkpoint(killed: Killed) -> None:
    trials = load(killed.directory).trials
    assert trials[killed.number + 1].params == killed.params
    assert "Resuming from" in (killed.directory / "1" / "train.log").read_text()
    assert sorted(job.directory.name for job in jobs_of(killed.directory)) == ["0", "1", "2", "3"]
    assert len({json.dumps(trial.params) for trial in trials}) == 4
