"""Composing a configuration and calling the pipeline without a command, as in a notebook."""

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import OmegaConf

from image_classifier import pipeline
from image_classifier.engine.launch.configuration import (
    CONFIG_DIR,  # and registers the resolvers
    compose,
)
from tiny import TINY

SETTINGS = (*TINY, "trainer.max_epochs=1", "logger=none", "confusion_matrix=none")


@pytest.fixture
def outputs(tmp_path: Path) -> str:
    return f"paths.output_dir={tmp_path}"


def test_train_evaluate_predict(outputs: str, tmp_path: Path, save_picture: Callable[[Path], None]) -> None:
    with initialize_config_dir(CONFIG_DIR):
        cfg = hydra_compose("train", overrides=[*SETTINGS, outputs])
    value = pipeline.train(cfg)
    (run_dir,) = (tmp_path / "train").iterdir()
    assert Path(cfg.paths.run_dir) == run_dir
    metrics = json.loads((run_dir / "metrics.json").read_text())
    assert value == metrics["val/acc"]
    checkpoint = f"ckpt_path={run_dir}/checkpoints/best.ckpt"
    assert pipeline.evaluate(compose("eval", [checkpoint, outputs])) == metrics["test/acc"]
    save_picture(tmp_path / "a.png")
    pipeline.predict(compose("predict", [checkpoint, outputs, f"input={tmp_path}/a.png", f"output={tmp_path}/p.csv"]))
    assert len((tmp_path / "p.csv").read_text().splitlines()) == 2


@pytest.fixture
def save_picture() -> Callable[[Path], None]:
    from PIL import Image

    return lambda path: Image.new("L", (8, 8)).save(path)


def test_the_run_directory_is_settled_once_for_each_configuration(outputs: str, tmp_path: Path) -> None:
    first, second = compose("train", [outputs]), compose("train", [outputs])
    settled = first.paths.run_dir
    assert settled == first.paths.run_dir == first.trainer.default_root_dir == copy.deepcopy(first).paths.run_dir
    assert OmegaConf.to_container(first, resolve=True)["callbacks"]["report"]["run_dir"] == settled  # type: ignore[call-overload,index]
    assert Path(settled).parent == tmp_path / "train"
    assert second.paths.run_dir != settled


def test_home_in_a_file_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "it's me"))
    cfg = compose("train", ["data.root=~/photos"])
    assert cfg.data.root == f"{tmp_path}/it's me/photos"
    cfg.paths.output_dir = "~/runs"  # as configs/local/default.yaml may say
    assert Path(cfg.paths.run_dir).parent == tmp_path / "it's me" / "runs" / "train"
