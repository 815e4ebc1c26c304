"""Every option of every group composes with the commands' configurations."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from image_classifier.engine.project import CONFIG_DIR
from tiny import MANDATORY

# Parts that the options of a group share.
PARTS = {("data", "in_memory"), ("data", "pictures"), ("model", "classifier")}
# Chosen by the commands themselves rather than by users.
NO_CHOICES = {"hydra", "paths", "local"}
OPTIONS = [
    (path.parent.name, path.stem)
    for path in sorted(Path(CONFIG_DIR).glob("*/*.yaml"))
    if path.parent.name not in NO_CHOICES and (path.parent.name, path.stem) not in PARTS
]


@pytest.mark.parametrize(("group", "option"), OPTIONS, ids=["=".join(option) for option in OPTIONS])
def test_option_composes(compose_config: Callable[..., Any], group: str, option: str) -> None:
    settings = [f"{group}={option}"]
    if group == "pruning":  # chosen by sweeps only
        settings.append("sweep=optuna")
    settings += [MANDATORY[option]] if option in MANDATORY else []
    cfg = compose_config(*settings)
    in_a_sweep = group in {"sweep", "pruning"}  # these read settings of the running sweep
    resolved = OmegaConf.to_container(cfg, resolve=not in_a_sweep, throw_on_missing=True)
    assert resolved["monitor"]["metric"]  # type: ignore[index,call-overload]


@pytest.mark.parametrize("config_name", ["train", "eval", "predict", "export"])
def test_commands_resolve(compose_config: Callable[..., Any], config_name: str) -> None:
    mandatory = {"eval": ["ckpt_path=a"], "predict": ["ckpt_path=a", "input=b"], "export": ["ckpt_path=a"]}.get(
        config_name, []
    )
    cfg = compose_config(*mandatory, config_name=config_name)
    OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)


def test_a_file_in_local_overrides_the_defaults_of_this_machine(tmp_path: Path) -> None:
    shutil.copytree(CONFIG_DIR, tmp_path / "configs")
    (tmp_path / "configs" / "local" / "default.yaml").write_text(
        "# @package _global_\npaths:\n  data_dir: /fast/disk\ntrainer:\n  precision: 32-true\n"
    )
    with initialize_config_dir(str(tmp_path / "configs")):
        cfg = compose("train")
    assert cfg.data.root == "/fast/disk" and cfg.trainer.precision == "32-true"
