"""Every character that a file system allows, in run directories, checkpoints, data, pictures and sweeps."""

import os
import shlex
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from PIL import Image
from readers import READERS
from sweeping import TINY as SWEPT
from sweeping import Outcome, figures, run, summary

from image_classifier import commands, pipeline
from image_classifier.engine.errors import UserError
from image_classifier.engine.overrides import quoted
from image_classifier.engine.sqlite import sqlite_url
from odd_names import ODD_NAMES, ODD_PATH, read_by_bash
from tiny import TINY

QUICK = ("trainer.max_epochs=1", "data.num_samples=40")
WRITTEN = {"config.yaml", "metrics.json", "checkpoints/best.ckpt", "checkpoints/last.ckpt", "confusion_matrix/test.csv"}


def files(directory: Path) -> set[str]:
    return {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.sampled(every=4)
@pytest.mark.parametrize("path", ["/".join(ODD_NAMES[start::8]) for start in range(8)])
def test_run_directory(compose_config: Callable, tmp_path: Path, path: str) -> None:
    cfg = compose_config(*TINY, *QUICK, "logger=csv", "confusion_matrix=none")
    run_dir = tmp_path / path / "run"
    cfg.paths.run_dir = str(run_dir)
    pipeline.train(cfg)
    assert files(run_dir) >= WRITTEN - {"confusion_matrix/test.csv"} | {"csv/metrics.csv"}
    assert files(tmp_path) == {f"{path}/run/{file}" for file in files(run_dir)}, "nothing lies anywhere else"


@pytest.mark.parametrize("logger", ["tensorboard", "wandb", "mlflow"])
def test_loggers(compose_config: Callable, tmp_path: Path, logger: str) -> None:
    mode = ["logger.wandb.mode=offline"] if logger == "wandb" else []
    cfg = compose_config(*TINY, *QUICK, "confusion_matrix=image", f"logger={logger}", *mode)
    run_dir = tmp_path / ODD_PATH / "run"
    cfg.paths.run_dir = str(run_dir)
    pipeline.train(cfg)
    reader = READERS[logger](run_dir)
    assert reader.has_image("confusion_matrix/test")
    assert reader.final_metrics()["test/acc"] == pytest.approx(figures(run_dir)["test/acc"])
    assert files(tmp_path) == {f"{ODD_PATH}/run/{file}" for file in files(run_dir)}, "nothing lies anywhere else"


def command(**paths: Path) -> list[str]:
    """Overrides as a shell hands them over when their quoted form is pasted."""
    keys = {"run_dir": "hydra.run.dir", "data_root": "data.root", "sweep_dir": "hydra.sweep.dir"}
    return shlex.split(shlex.join(quoted(keys.get(key, key), str(path)) for key, path in paths.items()))


def read_override(override: str) -> object:
    return OverridesParser.create().parse_override(override).value()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures and a run on them by the command, all under odd names; returns the directory of both."""
    directory = tmp_path_factory.mktemp("odd") / ODD_PATH
    for label, colour in (("[bold]", 40), ("100% :smile:", 200)):
        for number in range(10):
            path = directory / "data" / label / f"{number} {ODD_NAMES[number]}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (colour + number,) * 3).save(path)
    pictures = [setting for setting in TINY if not setting.startswith(("data", "callbacks.report"))]
    settings = [*pictures, "data=image_folder", "data.image_size=8", "trainer.max_epochs=1", "logger=tensorboard"]
    outcome = run(*settings, *command(run_dir=directory / "run", data_root=directory / "data"))
    assert outcome.status == 0, outcome.errors
    assert files(directory / "run") >= WRITTEN
    return directory


def test_eval(trained: Path, tmp_path: Path) -> None:
    checkpoint = trained / "run" / "checkpoints" / "best.ckpt"
    arguments = command(ckpt_path=checkpoint, run_dir=tmp_path / ODD_PATH)
    outcome = run(*arguments, command=commands.evaluate)
    assert outcome.status == 0, outcome.errors
    assert figures(tmp_path / ODD_PATH)["test/acc"] == figures(trained / "run")["test/acc"]


def test_predict(trained: Path, tmp_path: Path) -> None:
    checkpoint = trained / "run" / "checkpoints" / "best.ckpt"
    table = tmp_path / ODD_PATH / "p.csv"
    arguments = command(ckpt_path=checkpoint, input=trained / "data", output=table, run_dir=tmp_path / "r")
    outcome = run(*arguments, command=commands.predict)
    assert outcome.status == 0, outcome.errors
    text = table.read_text()
    assert text.count(".png") == 20 and str(trained) in text.replace('""', '"')


def test_resume(trained: Path) -> None:
    settings = [setting for setting in TINY if not setting.startswith(("data", "callbacks.report", "trainer.max"))]
    more = ["data=image_folder", "data.image_size=8", "trainer.max_epochs=2", "logger=none"]
    paths = {"ckpt_path": trained / "run" / "checkpoints" / "last.ckpt", "run_dir": trained / "resumed"}
    outcome = run(*settings, *more, *command(data_root=trained / "data", **paths))
    assert outcome.status == 0, outcome.errors
    assert figures(trained / "resumed")["epochs"] == 2


def sweep(directory: Path, *arguments: str) -> Outcome:
    return run("-m", *SWEPT, *command(sweep_dir=directory), "trainer.max_epochs=1", *arguments)


def test_grid_and_its_printed_commands(trained: Path, tmp_path: Path) -> None:
    """One job finishes and one diverges; both kinds of commands give the very paths back."""
    directory, root = tmp_path / "sweep" / ODD_PATH, trained / "data"
    plain = [setting for setting in SWEPT if not setting.startswith("data")]
    pictures = ["data=image_folder", "data.image_size=8", "trainer.max_epochs=1", *command(data_root=root)]
    outcome = run("-m", *plain, *pictures, *command(sweep_dir=directory), "model.optimizer.lr=0.01,1e30")
    assert outcome.status == 1
    assert [row["state"] for row in summary(directory)] == ["finished", "failed"]
    again = outcome.errors.partition("The same command with ")[2].partition(" runs these again")[0]
    assert read_override(*read_by_bash(again)) == str(directory)
    repeat = outcome.output.partition("Repeat job ")[2].partition(": ")[2].partition("\nTable and picture: ")[0]
    python, script, *overrides = read_by_bash(repeat)
    assert (python, script) == ("python", "train.py")
    assert read_override(*[override for override in overrides if override.startswith("data.root")]) == str(root)
    assert run(*overrides, f"hydra.run.dir={tmp_path}/again").status == 0
    assert figures(tmp_path / "again")["val/acc"] == figures(directory / "0")["val/acc"]


def test_optuna(tmp_path: Path) -> None:
    directory = tmp_path / ODD_PATH
    space = ["model=mlp", "model.optimizer.lr=interval(0.001, 0.01)", "model.optimizer.weight_decay=0.01"]
    arguments = ["sweep=optuna", *space, "data.batch_size=32", "hydra.sweeper.n_trials=2"]
    outcome = sweep(directory, *arguments)
    assert outcome.status == 0, outcome.errors
    study = optuna.load_study(study_name="sweep", storage=sqlite_url(f"{directory}/optuna.db"))
    assert [list(trial.intermediate_values) for trial in study.trials] == [[1], [1]]
    assert {"optuna.db", "optuna_history.png", "sweep_summary.png"} <= files(directory)
    assert "2 trials; 0 are left" in sweep(directory, *arguments).output
    assert files(tmp_path) == {f"{ODD_PATH}/{file}" for file in files(directory)}, "nothing lies anywhere else"


@pytest.mark.slow
@pytest.mark.thorough
def test_submitit(tmp_path: Path) -> None:
    directory = tmp_path / ODD_PATH.replace("%", "")
    outcome = sweep(directory, "hydra/launcher=submitit_local", "seed=1")
    assert outcome.status == 0, outcome.errors
    assert [row["state"] for row in summary(directory)] == ["finished"]


def test_what_cannot_be_is_told_before_training_starts(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    impossible = {
        "hydra.run.dir": [tmp_path / ("x" * 300), tmp_path / "file" / "run", tmp_path / "\\${x}"],
        "hydra.sweep.dir": [tmp_path / ("x" * 300), tmp_path / "file" / "run", tmp_path / "\\${x}"],
    }
    for key, paths in impossible.items():
        for path in paths:
            outcome = run(*(["-m", "seed=1,2"] if "sweep" in key else []), *TINY, quoted(key, str(path)))
            assert outcome.status == 2
            (line,) = outcome.errors.strip().splitlines()
            assert line.startswith(f"error: expected {key} to be a directory to write to but found {tmp_path}")
    submitit = sweep(tmp_path / "100%job", "hydra/launcher=submitit_local", "seed=1,2")
    assert submitit.status == 2 and "submitit replaces %j" in submitit.errors and "Traceback" not in submitit.errors
    database = sweep(tmp_path.joinpath(*["y" * 200] * 3), "sweep=optuna", "hydra.sweeper.n_trials=1")
    assert database.status == 2 and "at most 500 bytes" in database.errors and "Traceback" not in database.errors
    with pytest.raises(UserError, match="at most 500 bytes"):
        sqlite_url(f"{tmp_path}/{'y/' * 250}mlflow.db")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    outcome = run(*TINY, f"hydra.run.dir={tmp_path}/closed")
    assert outcome.status == 2 and "nothing can be written there" in outcome.errors
