"""The help: every option and every setting with what its file says of it; completion; other templates' commands."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from image_classifier import commands
from image_classifier.engine.errors import UserError
from image_classifier.engine.launch import help as help_page
from image_classifier.engine.launch.assembly import make_loggers
from image_classifier.engine.launch.choices import NAMES_ELSEWHERE, check_choices
from image_classifier.engine.launch.yaml_comments import comments, groups, option_files, read_config_file
from image_classifier.engine.project import CONFIG_DIR, PROJECT_ROOT
from tiny import TINY

CONFIGS = Path(CONFIG_DIR)
ABSTRACT = {("data", "in_memory"), ("data", "pictures"), ("model", "classifier"), ("pruning", "common")}
OFFERED = [group for group in groups(CONFIGS) if group.partition("/")[0] not in help_page.NO_CHOICES]


def help_of(capsys: pytest.CaptureFixture[str], config_name: str, *arguments: str) -> str:
    help_page.print_help(config_name, [*arguments, "--help"])
    return capsys.readouterr().out


def flattened(node: object, prefix: str = "") -> dict[str, object]:
    """Dotted keys of all leaves, by another way than the help's."""
    if not isinstance(node, dict) or not node:
        return {prefix[:-1]: node}
    return {key: leaf for name, value in node.items() for key, leaf in flattened(value, f"{prefix}{name}.").items()}


@pytest.mark.parametrize(
    ("config_name", "overrides"),
    [
        ("train", []),
        ("train", ["model=timm", "data=image_folder", "logger=[csv,wandb]", "confusion_matrix=all"]),
        ("train", ["sweep=optuna", "experiment=best_gpu", "debug=overfit"]),
        ("eval", []),
        ("predict", []),
        ("export", []),
    ],
)
def test_every_setting_of_the_chosen_options_is_there_as_it_would_be_typed(
    capsys: pytest.CaptureFixture[str], config_name: str, overrides: list[str]
) -> None:
    shown = help_of(capsys, config_name, *overrides)
    typed = {match[1]: match[2] for match in re.finditer(r"^  (\S+?)=(.*?)(?:  .*)?$", shown, re.MULTILINE)}
    with initialize_config_dir(CONFIG_DIR):
        cfg = compose(config_name, overrides=overrides)
        expected = flattened(OmegaConf.to_container(cfg))
        assert {key for key in expected if not key.endswith("_partial_")} - {"command"} <= set(typed)
        again = [f"{key}={typed[key]}" for key in ("seed", "data.batch_size", "trainer.max_epochs") if key in expected]
        assert OmegaConf.to_container(compose(config_name, overrides=[*overrides, *again])) == OmegaConf.to_container(
            cfg
        )
    assert "Traceback" not in shown


def test_comments_stand_beside_their_settings(capsys: pytest.CaptureFixture[str]) -> None:
    lines = help_of(capsys, "train", "model=cnn", "sweep=optuna").splitlines()
    for expected in (
        "data.batch_size=128 training images a step and process",  # of the file that all data sets share
        "model.net.channels=[16,32,96] of each stage; a stage halves height and width",
        "seed=1 0 to 4294967295",
        "confusion_matrix.normalize=none none, true (rows sum to 1), pred (columns sum to 1)",  # above
        "monitor picks the best checkpoint, stops early, is returned to sweepers",  # of the whole
        "callbacks.pruning.pruner.n_warmup_steps=1 epochs that a job may always train",  # into another package
    ):
        assert any(" ".join(line.split()).startswith(expected) for line in lines), expected


@pytest.mark.parametrize("group", OFFERED)
def test_every_option_is_offered_with_a_line_and_abstract_files_are_not(
    capsys: pytest.CaptureFixture[str], group: str
) -> None:
    names = {path.stem for path in (CONFIGS / group).glob("*.yaml")}
    offered = set(option_files(CONFIGS, group))
    assert names - offered == {name for place, name in ABSTRACT if place == group}
    page = help_of(capsys, "train").partition("SETTINGS")[0]
    lines = re.search(rf"^  {re.escape(group)}=\n((?:    .*\n|  \* .*\n)+)", page, re.MULTILINE)
    assert lines, f"{group} is not in the help"
    described = dict(re.findall(r"^  [ *] (\S+)  +(\S.*)$", lines[1], re.MULTILINE))
    assert set(described) == offered, "an option has no comment at the top of its file"
    assert all(len(text) < 140 for text in described.values())


def test_chosen_options_have_a_star(capsys: pytest.CaptureFixture[str]) -> None:
    page = help_of(capsys, "train", "model=mlp", "logger=[csv,wandb]").partition("SETTINGS")[0]
    stars = re.findall(r"^  \* (\S+)", page, re.MULTILINE)
    assert {"mlp", "csv", "wandb", "fashion_mnist"} <= set(stars) and not {"cnn", "tensorboard"} & set(stars)


@pytest.mark.parametrize(("variable", "colored"), [("", True), ("1", False)])
def test_colors_in_a_terminal(variable: str, colored: bool, tmp_path: Path) -> None:
    import pty

    main, terminal = pty.openpty()
    environment = {**os.environ, "NO_COLOR": variable, "COLUMNS": "80"}
    command = [sys.executable, str(PROJECT_ROOT / "train.py"), "--help"]
    with subprocess.Popen(command, stdout=terminal, env=environment, cwd=tmp_path) as process:
        os.close(terminal)
        received = b""
        while True:
            try:
                part = os.read(main, 10000)
            except OSError:  # the end, on Linux
                break
            if not part:
                break
            received += part
    os.close(main)
    assert process.returncode == 0 and (b"\033[" in received) == colored
    plain = re.sub(r"\033\[[\d;]*m", "", received.decode())
    assert max(map(len, plain.splitlines())) == 80 and "…" in plain
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_has_seen_enough(tmp_path: Path) -> None:
    script = f"{sys.executable} {PROJECT_ROOT / 'train.py'} --help | head -1"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.startswith("python train.py [GROUP=OPTION") and done.stderr == ""


# The comments themselves.


def test_comments_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "train.yaml").write_text("# heading\ndefaults: [{model: a}]\n\nseed: 1  # of it all\n")
    (tmp_path / "model" / "base.yaml").write_text(
        "# What all models share.\n"
        "rate: 0.1  # a rate\n"
        "name: 'a # b'  # quoted\n"
        "net:  # the network\n"
        "  sizes: [1, 2]  # widths\n"
        "  # two lines\n"
        "  # above\n"
        "  depth: 3\n"
        "  plain: 4\n"
        'text: "#"\n'
    )
    (tmp_path / "model" / "a.yaml").write_text(
        "# @package part\n# Heading. More of it.\ndefaults:\n  - base\n\n"
        "rate: 0.2\nnet:\n  plain: 5  # now it has one\n"
    )
    assert comments(tmp_path, "train", {"model": "a"}) == {
        "part.rate": "a rate",
        "part.name": "quoted",
        "part.net": "the network",
        "part.net.sizes": "widths",
        "part.net.depth": "two lines above",
        "part.net.plain": "now it has one",
        "seed": "of it all",
    }
    assert comments(tmp_path, "train", {"model@other": ["base"]})["other.rate"] == "a rate"
    assert list(option_files(tmp_path, "model")) == ["a"]
    assert read_config_file(tmp_path / "model" / "a.yaml").heading == "Heading. More of it."


# What is typed wrongly, or comes from another template.


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("model=cn", "expected model to be one of cnn, mlp, .* but found cn; did you mean model=cnn?"),
        ("model=cnn,mpl", "but found mpl; did you mean model=mlp?"),
        (
            "+experiment=zzz",
            "expected experiment to be one of best_cpu, .* but found zzz; for example experiment=best_cpu",
        ),
        ("logger=[csv,tensorbord]", "but found tensorbord; did you mean logger=tensorboard?"),
        ("debug=fdr", r"found debug=fdr, which other templates have; here: debug=one_batch"),
        ("debug=default", "here: debug=one_batch"),
        ("debug=limit", "here: debug=limited_data"),
        ("logger=many_loggers", r"here: logger=\[tensorboard,csv,wandb\]"),
        ("tags=[mnist,first]", "expected a setting of this project but found tags=.*; here: .logger.wandb.tags"),
        ("hparams_search=mnist_optuna", "here: -m sweep=optuna"),
        ("+tags=[a]", "found .tags=.*; here: .logger.wandb.tags"),
        ("extras.enforce_tags=false", "here: leave it out"),
        ("data.pin_memory=true", "here: leave it out, for it is done"),
        ("data.train_val_test_split=[55000,5000,10000]", "here: data.val_size"),
        ("paths.log_dir=logs", "here: paths.output_dir"),
        ("trainer.min_epochs=2", "here: .trainer.min_epochs"),
    ],
)
def test_options_that_are_none_are_told_in_a_line(argument: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        check_choices(["seed=1", argument], CONFIGS)
    assert "\n" not in str(caught.value) and "classifier" not in str(caught.value)


@pytest.mark.parametrize(
    "argument",
    [
        *("model=mlp", "model=mlp,cnn", "logger=[csv,wandb]", "logger=[]", "experiment=null", "model=cnn.yaml"),
        *("experiment=glob(*)", "model=choice(mlp,cnn)", "~logger", "hydra/launcher=joblib", "data.root=x,y", "--help"),
        *("debug=overfit", "++trainer.fast_dev_run=true", "model/optimizer=${x}", "ckpt_path=model=cn"),
    ],
)
def test_all_else_is_left_to_hydra(argument: str) -> None:
    check_choices([argument], CONFIGS)


@pytest.mark.parametrize(("file", "argument"), [("train.yaml", "tags=[a]"), ("data/own.yaml", "data.pin_memory=true")])
def test_a_project_may_have_settings_of_these_names(tmp_path: Path, file: str, argument: str) -> None:
    (tmp_path / "data").mkdir()
    key = argument.partition("=")[0].rpartition(".")[2]
    with pytest.raises(UserError, match="here: "):
        check_choices([argument], tmp_path)
    (tmp_path / file).write_text(f"a: 1\n{key}: []\n")
    check_choices([argument], tmp_path)


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (["debug=default"], "here: debug=one_batch"),
        (["debug=fdr"], "here: debug=one_batch"),
        (["debug=limit"], "here: debug=limited_data"),
        (["logger=many_loggers"], "here: logger=[tensorboard,csv,wandb]"),
        (['tags=["mnist", "experiment_X"]'], "here: +logger.wandb.tags=[NAME,...]"),
        (["-m", "hparams_search=mnist_optuna", "experiment=example"], "here: -m sweep=optuna"),
        (["trainer=ddp_sim", "trainer.devices=2"], "here: trainer=ddp trainer.accelerator=cpu"),
        (["trainer=mps"], "here: trainer.accelerator=mps"),
    ],
)
def test_another_templates_commands_are_told_in_one_line(
    run_train: Callable[..., int], capsys: pytest.CaptureFixture[str], typed: list[str], told: str
) -> None:
    assert run_train(*typed) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: expected ") and told in printed and len(printed.splitlines()) == 1


def test_wandb_takes_tags(compose_config: Callable[..., DictConfig]) -> None:
    cfg = compose_config("logger=wandb", "+logger.wandb.tags=[mnist,first]")
    (logger,) = make_loggers(cfg)
    assert logger._wandb_init["tags"] == ["mnist", "first"]


def test_directories_of_ones_own_are_left_to_hydra() -> None:
    check_choices(["model=mine", "--config-dir", "elsewhere"], CONFIGS)
    check_choices(["model=mine", "hydra.searchpath=[elsewhere]"], CONFIGS)


def test_what_foreign_names_are_called_here_exists() -> None:
    for here in NAMES_ELSEWHERE.values():
        for group, options in re.findall(r"\b([a-z]+)=([\[\w,\]]+)", here):
            if (CONFIGS / group).is_dir():
                for option in options.strip("[]").split(","):
                    assert option in option_files(CONFIGS, group), here


@pytest.fixture
def run_train(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
        try:
            commands.train()
        except SystemExit as stopped:
            return int(stopped.code or 0)
        return 0

    return run


QUICK = (*TINY, "logger=none", "confusion_matrix=none", "callbacks.most_confused=null")


def test_fast_dev_run_works_as_elsewhere(run_train: Callable[..., int], tmp_path: Path) -> None:
    assert run_train(*QUICK, "++trainer.fast_dev_run=true", f"hydra.run.dir={tmp_path}/run") == 0
    assert (tmp_path / "run" / "metrics.json").is_file()


def test_all_experiments_as_elsewhere(run_train: Callable[..., int], tmp_path: Path) -> None:
    quick = [setting for setting in QUICK if not setting.startswith("model")]
    settings = ("debug=one_batch", "data.batch_size=8", "data.image_size=28", f"hydra.sweep.dir={tmp_path}/sweep")
    assert run_train("-m", *quick, "experiment=glob(keras*)", *settings) == 0
    assert (tmp_path / "sweep" / "0" / "metrics.json").is_file()


# Completion.


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("model=", "model=cnn model=mlp model=resnet18 model=timm model=wide_resnet"),
        ("trainer.max_ep", "trainer.max_epochs="),
        ("data=sy", "data=synthetic"),
    ],
)
def test_bash_completes(tmp_path: Path, typed: str, expected: str) -> None:
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    script = (
        'eval "$(python train.py -sc install=bash)" && COMP_LINE="python train.py $1" COMP_CWORD=2 '
        'COMP_POINT=${#COMP_LINE} hydra_bash_completion && echo "${COMPREPLY[@]}"'
    )
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run(
        ["bash", "-c", script, "bash", typed], cwd=PROJECT_ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert set(expected.split()) <= set(done.stdout.split()) and "classifier" not in done.stdout
