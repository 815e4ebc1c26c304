"""What belongs to one logger: layouts, modes, stores, and how several get along."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from readers import READERS, MLFlowReader, TensorBoardReader, TrackioReader, WandbReader, finished_records
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2

from image_classifier import pipeline
from image_classifier.engine.confusion.matrix import cell_scalars
from image_classifier.engine.errors import UserError
from image_classifier.engine.launch import assembly
from image_classifier.engine.loggers.base import table_rows
from image_classifier.models.classifier import Classifier
from odd_names import ODD_NAMES

SHORT = "trainer.max_epochs=1"


@pytest.fixture(autouse=True)
def no_wandb_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The machine's own key, mode and server must not matter."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "no_netrc"))


def test_tensorboard_groups_the_curves_of_the_classes(train: Callable[..., Path]) -> None:
    reader = TensorBoardReader(train("logger=tensorboard", "confusion_matrix=image", SHORT))
    (event,) = reader.events.Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    charts = {
        (category.title, chart.title): list(chart.multiline.tag)
        for category in layout.category
        for chart in category.chart
    }
    assert charts == {
        (f"per class, {stage}", figure): [f"per_class/{stage}/{figure}/.*"]
        for stage in ("val", "test")
        for figure in ("precision", "recall", "f1")
    }


def test_tensorboard_has_one_hparams_entry_in_one_event_file(train: Callable[..., Path]) -> None:
    run_dir = train("logger=tensorboard", SHORT, "model.optimizer.lr=0.0123")
    assert len(list((run_dir / "tensorboard").rglob("events.out.*"))) == 1
    assert not [path for path in (run_dir / "tensorboard").iterdir() if path.is_dir()]
    reader = TensorBoardReader(run_dir)
    content = reader.events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    settings = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    assert settings["model.optimizer.lr"].number_value == pytest.approx(0.0123)
    experiment = reader.events.SummaryMetadata("_hparams_/experiment").plugin_data.content
    metrics = plugin_data_pb2.HParamsPluginData.FromString(experiment).experiment.metric_infos
    assert {"final/test/acc", "final/val/acc"} <= {metric.name.tag for metric in metrics}
    assert reader.scalars()["final/test/acc"]


def test_wandb_without_a_key_goes_offline_and_says_how_to_upload(
    train: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = train("logger=wandb", SHORT)
    (directory,) = (run_dir / "wandb").glob("offline-run-*")
    said = [line for line in capsys.readouterr().out.splitlines() if "wandb sync" in line]
    assert said == [f"W&B logs offline (no API key found). Upload the run later with: wandb sync {directory}"]
    assert WandbReader(run_dir).config["data.num_classes"] == 4


def test_wandb_with_a_key_but_no_server_goes_offline(
    train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    run_dir = train("logger=wandb", SHORT)
    assert "127.0.0.1 does not answer" in capsys.readouterr().out
    assert list((run_dir / "wandb").glob("offline-run-*"))


def test_wandb_names_are_cut_and_stay_apart(train: Callable[..., Path]) -> None:
    long = "model.optimizer.lr=0.001 " * 10
    extra = [f"+logger.wandb.{key}='{long}{key}'" for key in ("name", "job_type")]
    extra += [f"logger.wandb.group='{long}'", f"+logger.wandb.tags=['{long}a','{long}b']", "+logger.wandb.id='a/b#c'"]
    run_dir = train("logger=wandb", "logger.wandb.mode=offline", SHORT, *extra)
    (file,) = (run_dir / "wandb").glob("offline-run-*/run-*.wandb")
    (run,) = (record.run for record in finished_records(file) if record.WhichOneof("record_type") == "run")
    for found in (run.display_name, run.run_group, run.job_type):
        assert len(found) == 128 and long.startswith(found[:119])
    assert len({run.display_name, run.run_group, run.job_type}) == 3
    assert [len(tag) for tag in run.tags] == [64, 64] and len(set(run.tags)) == 2
    assert run.run_id == "a_b_c"


def test_a_resumed_run_goes_on_in_its_trackio_run(train: Callable[..., Path]) -> None:
    run_dir = train("logger=trackio", SHORT)
    train("logger=trackio", "trainer.max_epochs=2", f"ckpt_path={run_dir}/checkpoints/last.ckpt")
    reader = TrackioReader(run_dir)
    assert len(reader.configs) == 1 and reader.configs[0]["data.num_classes"] == 4
    assert len(reader.scalars()["val/acc"]) == 2


@pytest.mark.parametrize("project", ["a/b", "50%", "what?", "x" * 129])
def test_a_project_that_wandb_refuses_is_told(train: Callable[..., Path], project: str) -> None:
    with pytest.raises(UserError, match="expected a W&B project of at most 128 characters"):
        train("logger=wandb", f"logger.wandb.project={project}")


@pytest.mark.parametrize("name", ["tensorboard", "csv", "wandb", "mlflow", "trackio"])
def test_keys_of_odd_characters_reach_the_logger(compose_config: Callable, name: str, tmp_path: Path) -> None:
    cfg = compose_config(f"logger={name}", *(["logger.wandb.mode=offline"] if name == "wandb" else []))
    (logger,) = assembly.make_loggers(cfg)
    keys = ["test/top5@acc", "test/top5#acc", "test/µ [%]", "test/a=b, c"]
    logger.log_facts({"cats & dogs": 1, "cats + dogs": "[/red] | `x`\ny"})
    logger.log_metrics({key: number for number, key in enumerate(keys)}, 0)
    if name == "csv":
        logger.save()
    pipeline.close([logger])
    scalars = {key: values for key, values in READERS[name](tmp_path / "run").scalars().items() if "test/" in key}
    assert sorted(values[0] for values in scalars.values()) == [0, 1, 2, 3]
    assert name == "mlflow" or set(scalars) == set(keys)


@pytest.mark.parametrize("name", ["tensorboard", "csv", "wandb", "mlflow", "trackio"])
def test_every_pair_of_oddly_named_classes_has_its_own_key_in_every_logger(
    compose_config: Callable, name: str, tmp_path: Path
) -> None:
    names = ["a b", "a_b", "a_b_1", "", ".", "..", "x" * 200, f"{'x' * 199}y", *ODD_NAMES]
    number = len(names)
    values = torch.arange(number**2).view(number, number)
    cells = [(t, p) for t in range(12) for p in range(number)]
    cfg = compose_config(f"logger={name}", *(["logger.wandb.mode=offline"] if name == "wandb" else []))
    (logger,) = assembly.make_loggers(cfg)
    logger.log_metrics(cell_scalars(values, names, "confusion_matrix/val", cells), 0)
    if name == "csv":
        logger.save()
    pipeline.close([logger])
    scalars = READERS[name](tmp_path / "run").scalars()
    logged = [values[0] for key, values in scalars.items() if key.startswith("confusion_matrix")]
    assert sorted(logged) == list(range(12 * number))


def test_each_job_has_its_own_wandb_run(compose_config: Callable, train: Callable[..., Path], tmp_path: Path) -> None:
    first = WandbReader(train("logger=wandb", SHORT))
    second = WandbReader(train("logger=wandb", SHORT, f"paths.run_dir={tmp_path}/second", "model.optimizer.lr=0.5"))
    assert first.files.parent.name != second.files.parent.name
    assert len(list((tmp_path / "run" / "wandb").glob("offline-run-*"))) == 1
    assert second.config["model.optimizer.lr"] == 0.5 != first.config["model.optimizer.lr"]


def test_mlflow_keeps_settings_and_ends_the_run(train: Callable[..., Path]) -> None:
    run = MLFlowReader(train("logger=mlflow", SHORT)).run
    assert run.info.status == "FINISHED"
    assert run.data.params["data.num_classes"] == "4" and "git_commit" in run.data.params


def test_a_missing_mlflow_is_told_with_its_cure(train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mlflow", None)
    with pytest.raises(UserError, match="uv pip install mlflow"):
        train("logger=mlflow")


def test_a_missing_trackio_is_told_with_its_cure(train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "trackio", None)
    with pytest.raises(UserError, match="uv pip install trackio"):
        train("logger=trackio")


def test_several_loggers_share_a_run(train: Callable[..., Path]) -> None:
    extra = "{_target_: image_classifier.engine.loggers.csv.CSVLogger, run_dir: ${paths.run_dir}}"
    run_dir = train("logger=tensorboard", f"+logger.csv={extra}", "confusion_matrix=all", SHORT)
    assert TensorBoardReader(run_dir).has_image("confusion_matrix/test")
    assert not (run_dir / "images").exists()  # TensorBoard has the pictures
    assert (run_dir / "csv" / "confusion_matrix_table" / "test_step_1.csv").exists()


@pytest.mark.parametrize("name", ["CSVLogger", "TensorBoardLogger"])
def test_a_plain_lightning_logger_works_too(train: Callable[..., Path], tmp_path: Path, name: str) -> None:
    foreign = f"{{_target_: pytorch_lightning.loggers.{name}, save_dir: {tmp_path}/foreign}}"
    run_dir = train("logger=none", f"+logger.plain={foreign}", "confusion_matrix=all", SHORT)
    assert list((tmp_path / "foreign").rglob("*.csv" if name == "CSVLogger" else "events.out.*"))
    assert (run_dir / "images" / "confusion_matrix" / "test_step_1.png").exists()
    assert (run_dir / "tables" / "confusion_matrix_table" / "test_step_1.csv").exists()


def test_a_failed_run_is_closed(train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(Classifier, "validation_step", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        train("logger=mlflow", SHORT)
    assert MLFlowReader(tmp_path / "run").run.info.status == "FAILED"


def test_incomplete_tables_become_a_list_of_cells() -> None:
    assert table_rows({"a": {"a": 1, "b": 2}, "b": {"b": 3}}) == [
        ["true", "predicted", "value"],
        ["a", "a", 1],
        ["b", "a", 2],
        ["b", "b", 3],
    ]
