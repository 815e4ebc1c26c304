"""The commands as typed: quick answers, one-line errors, multiruns whose jobs do not leak into each other."""

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from image_classifier import commands
from image_classifier.engine.launch.output_directory import how_to_go_on
from image_classifier.engine.project import PROJECT_ROOT
from image_classifier.engine.terminal import shell_joined, shell_quoted
from tiny import TINY

REPORT_TORCH = """
import atexit, runpy, sys
script = sys.argv.pop(1)
atexit.register(lambda: print("torch imported:", "torch" in sys.modules, file=sys.stderr))
sys.argv[0] = script
runpy.run_path(script, run_name="__main__")
"""


@pytest.mark.parametrize(
    ("script", "arguments", "status", "expected"),
    [
        ("train.py", ["--help"], 0, "fashion_mnist"),
        ("train.py", ["--cfg", "job"], 0, "max_epochs: "),
        ("eval.py", ["--help"], 0, "ckpt_path=???"),
        ("train.py", ["trainer.max_epoch=3"], 2, "Did you mean: 'max_epochs'?"),
        ("train.py", ["model=cn"], 2, "error: expected model to be one of cnn, mlp, resnet18"),
        ("train.py", ["data.batch_size=-1"], 2, "error: expected data.batch_size to be a whole number of at least 1"),
        ("predict.py", [], 2, "error: expected a value for ckpt_path"),
        ("train.py", ["model.compile=${x}"], 2, "error: expected what ${} names in model.compile to be there but"),
        ("train.py", ["ckpt_path=a/epoch=3.ckpt"], 2, "'=' needs quotes; type: 'ckpt_path=\"a/epoch=3.ckpt\"'"),
    ],
)
def test_answers_come_without_importing_torch(
    tmp_path: Path, script: str, arguments: list[str], status: int, expected: str
) -> None:
    command = [sys.executable, "-c", REPORT_TORCH, str(PROJECT_ROOT / script), *arguments]
    if status == 2:
        command.append(f"hydra.run.dir={tmp_path}/run")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == status
    assert expected in done.stdout + done.stderr
    assert "torch imported: False" in done.stderr
    assert "Traceback" not in done.stderr
    if status == 2:
        assert len(done.stderr.splitlines()) == 2  # the error, and what this test adds


@pytest.mark.slow
def test_training_from_another_directory(run_script: Callable, tmp_path: Path) -> None:
    done = run_script("train.py", *TINY, "logger=csv", "hydra.run.dir=here", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "leaked" not in done.stderr  # what triton says at the end when its objects are kept from the collector
    assert (tmp_path / "here" / "checkpoints" / "best.ckpt").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


@pytest.fixture
def run_command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run a command in this process as if it had been typed; returns its exit status."""

    def run(command: str, *arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", [f"{command}.py", *arguments])
        try:
            COMMANDS[command]()
        except SystemExit as stopped:
            return int(stopped.code or 0)
        return 0

    return run


@pytest.fixture
def foreign(tmp_path: Path) -> dict[str, Path]:
    """Files that are no checkpoints of this project."""
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    torch.save(torch.nn.Linear(1, 1), tmp_path / "pickled.ckpt")
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    return {name: tmp_path / f"{name}.ckpt" for name in ("other", "pickled", "text", "missing")}


@pytest.mark.sampled(every=3)
@pytest.mark.parametrize("command", ["train", "test", "eval", "predict", "export"])
@pytest.mark.parametrize("name", ["other", "pickled", "text", "missing"])
def test_checkpoint_of_another_kind_is_told_in_one_line(
    run_command: Callable[..., int],
    foreign: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: str,
    name: str,
) -> None:
    arguments = [f"ckpt_path={foreign[name]}", f"hydra.run.dir={tmp_path}/run"]
    if command == "predict":
        (tmp_path / "a.png").touch()
        arguments.append(f"input={tmp_path}/a.png")
    if command in ("train", "test"):
        arguments += [*TINY, "logger=none", f"train={str(command == 'train').lower()}"]
        command = "train"
    assert run_command(command, *arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and str(foreign[name]) in lines[0]
    assert lines[0].startswith("error: expected a checkpoint ")


COMMANDS = {
    "train": commands.train,
    "eval": commands.evaluate,
    "predict": commands.predict,
    "export": commands.export,
}


def test_predicting_in_several_processes_is_refused(
    run_command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["ckpt_path=a", "input=b", "trainer.devices=2", f"hydra.run.dir={tmp_path}/run"]
    assert run_command("predict", *arguments) == 2
    assert "expected trainer.devices=1, for predict runs in one process, but found 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["confusion_matrix=pie"], ["image", "none", "scalar"]),
        (["experiment=nothing"], ["keras_tutorial"]),
        (["logger=tensorbord"], ["csv", "tensorboard", "wandb"]),
        (["data.batchsize=3"], ["batch_size"]),
    ],
)
def test_mistyped_choices_are_told(
    run_command: Callable[..., int], arguments: list[str], expected: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command("train", *arguments) in (1, 2)  # Hydra's own status, and ours
    message = capsys.readouterr().err
    assert all(word in message for word in expected) and "Traceback" not in message


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("callbacks.model_checkpoint.every_n_train_steps=5", "every_n_train_steps"),
        ("trainer.benchmark=true", "benchmark"),
        ("model.net.foo=[1, 2]", "foo"),
        ("logger.tensorboard.token=sesame-1", "token"),
        ("quite_new=1", "quite_new"),
    ],
)
def test_a_setting_that_is_not_there_is_told_with_the_form_that_adds_it(
    run_command: Callable[..., int], typed: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command("train", typed) == 2
    shown = shell_quoted(f"+{typed}".replace("sesame-1", "***"))
    told = f"error: Key '{name}' is not in struct; if it is to be a new one, type: {shown}\n"
    assert capsys.readouterr().err == told


@pytest.mark.parametrize("typed", ["trainer.max_epoch=1", "callbacks.nope.x=1"])
def test_a_mistyped_key_is_not_to_be_added(
    run_command: Callable[..., int], typed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command("train", typed) == 2
    assert f"+{typed}" not in capsys.readouterr().err


@pytest.mark.parametrize("typed", ["trusted=[my.*]", "++trusted=[my.*]", "+trusted=['my.*']", "trusted=my.Net"])
@pytest.mark.parametrize("others", [[], ["--config-dir", "elsewhere"]])
def test_what_is_trusted_is_said_in_a_file(
    run_command: Callable[..., int], typed: str, others: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command("train", *others, typed) == 2
    told = capsys.readouterr().err
    value = typed.partition("=")[2]
    assert told.endswith(f"but found {typed}; write it into configs/local/default.yaml: trusted: {value}\n")


@pytest.mark.parametrize("form", ["--config-dir {0}", "--config-dir={0}", "-cd {0}", "hydra.searchpath=[file://{0}]"])
def test_a_run_with_further_configuration_files_goes_on_with_them(
    run_command: Callable[..., int], tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "others" / "callbacks").mkdir(parents=True)
    (tmp_path / "others" / "callbacks" / "mine.yaml").write_text("# Mine.\nmine: null\n")
    typed = form.format(tmp_path / "others").split(" ")
    chosen = ("callbacks=[default,mine]", f"hydra.run.dir={tmp_path}/run")
    assert run_command("train", *QUICK, *typed, *chosen) == 0
    going_on = how_to_go_on(tmp_path / "run")
    assert going_on.endswith(f"resume={tmp_path}/run {shell_joined(typed)}")
    capsys.readouterr()
    assert run_command("train", f"resume={tmp_path}/run", "trainer.max_epochs=2") == 2
    told = capsys.readouterr().err
    assert told.startswith("error: expected the further folders of configuration files that the run was started with")
    assert len(told.splitlines()) == 1
    add = shlex.split(told.partition("; add ")[2])
    assert run_command("train", f"resume={tmp_path}/run", "trainer.max_epochs=2", *add) == 0, capsys.readouterr().err


QUICK = (*TINY, "confusion_matrix=none", "callbacks.sample_images=null", "trainer.max_epochs=1")


def metrics(run_dir: Path) -> dict[str, float]:
    found = json.loads((run_dir / "metrics.json").read_text())
    del found["fit_seconds"]
    return found


def test_multirun_leaves_complete_directories_of_independent_jobs(
    run_command: Callable[..., int], tmp_path: Path
) -> None:
    settings = [value for value in QUICK if "hidden_sizes" not in value]
    for name, sizes in (("a", "[16],[4]"), ("b", "[4],[16]")):
        jobs = [f"model.net.hidden_sizes={sizes}", "logger=csv", f"hydra.sweep.dir={tmp_path / name}"]
        assert run_command("train", "-m", *settings, *jobs) == 0
        for directory in (tmp_path / name / "0", tmp_path / name / "1"):
            written = {path.relative_to(directory).as_posix() for path in directory.rglob("*")}
            assert written >= {
                "config.yaml",
                "metrics.json",
                "checkpoints/best.ckpt",
                "checkpoints/last.ckpt",
                "confusion_matrix/val.csv",
                "confusion_matrix/test.csv",
                "csv/metrics.csv",
            }
    first, last = tmp_path / "a" / "0", tmp_path / "b" / "1"
    assert metrics(first) == metrics(last) != metrics(tmp_path / "a" / "1")
    assert (first / "csv" / "metrics.csv").read_text() == (last / "csv" / "metrics.csv").read_text()


def test_each_job_of_a_multirun_has_its_own_wandb_run(run_command: Callable[..., int], tmp_path: Path) -> None:
    import wandb

    jobs = ["seed=1,2", "logger=wandb", "logger.wandb.mode=offline", f"hydra.sweep.dir={tmp_path}"]
    assert run_command("train", "-m", *QUICK, *jobs) == 0
    assert wandb.run is None
    runs = [list((tmp_path / job / "wandb").glob("offline-run-*")) for job in ("0", "1")]
    assert [len(found) for found in runs] == [1, 1]
    assert runs[0][0].name.rpartition("-")[2] != runs[1][0].name.rpartition("-")[2]
