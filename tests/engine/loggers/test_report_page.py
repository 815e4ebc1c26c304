"""The page of a run as each logger keeps it."""

import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from readers import MLFlowReader, TensorBoardReader, TrackioReader, WandbReader

from image_classifier import pipeline
from image_classifier.engine.loggers import guard
from image_classifier.engine.loggers.base import RunLogger
from image_classifier.engine.project import CONFIG_DIR
from tiny import TINY


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run with every logger that has a form for pages."""
    run_dir = tmp_path_factory.mktemp("page") / "run"
    overrides = [override for override in TINY if override != "callbacks.report=null"]
    loggers = ("logger=[tensorboard,wandb,mlflow,trackio]", "logger.wandb.mode=offline")
    with initialize_config_dir(CONFIG_DIR):
        cfg = compose("train", overrides=[f"paths.run_dir={run_dir}", *overrides, *loggers, "trainer.max_epochs=1"])
    with pytest.MonkeyPatch.context() as patch:  # a busy machine is no reason to give up here
        patch.setattr(guard, "CALL", 200.0)
        patch.setattr(guard, "END", 200.0)
        pipeline.train(cfg)
    return run_dir


@pytest.fixture(scope="module")
def page(run_dir: Path) -> bytes:
    return (run_dir / "report" / "report.html").read_bytes()


def test_wandb_has_it_as_html(run_dir: Path, page: bytes) -> None:
    reader = WandbReader(run_dir)
    (row,) = (row for row in reader.history if "report" in row)
    assert row["report"]["_type"] == "html-file"
    assert (reader.files / row["report"]["path"]).read_bytes() == page


def test_mlflow_has_it_as_an_artifact(run_dir: Path, page: bytes) -> None:
    assert MLFlowReader(run_dir).artifact("report/report.html").read_bytes() == page


def test_trackio_has_it_as_html(run_dir: Path, page: bytes) -> None:
    reader = TrackioReader(run_dir)
    (found,) = (row["report"] for _, row in reader.rows if "report" in row)
    assert found["_type"] == "trackio.html"
    assert (reader.store / "media" / found["file_path"]).read_bytes() == page


def test_tensorboard_says_where_it_lies(run_dir: Path) -> None:
    reader = TensorBoardReader(run_dir)
    (event,) = reader.events.Tensors("report/text_summary")
    (place,) = re.findall("`(.*)`", event.tensor_proto.string_val[0].decode())
    assert Path(place) == run_dir / "report" / "report.html"


def test_the_guard_knows_all_that_callbacks_ask_of_a_logger() -> None:
    """A method that it does not know would take the training with it when it fails."""
    asked = {name for name in vars(RunLogger) if name.startswith("log_")} | {"group_curves", "close"}
    assert asked <= set(guard.METHODS)
