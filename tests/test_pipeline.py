"""Whole runs: what is written, what is returned, what a resumed run, a test or an evaluation repeats."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from image_classifier import pipeline
from image_classifier.engine.errors import UserError
from tiny import TINY

PLAIN = ("logger=none", "confusion_matrix=none", "callbacks.sample_images=null")


def read_metrics(run_dir: Path) -> dict[str, float]:
    return json.loads((run_dir / "metrics.json").read_text())


def of_the_test(figures: dict[str, float]) -> dict[str, float]:
    return {key: value for key, value in figures.items() if key.startswith("test/")}


def test_evaluation_repeats_the_test_figures_to_the_last_digit(
    train: Callable[..., Path], compose_config: Callable[..., Any], tmp_path: Path
) -> None:
    run_dir = train()
    cfg = compose_config(
        f"ckpt_path={run_dir}/checkpoints/best.ckpt",
        f"paths.run_dir={tmp_path}/eval",
        "callbacks.calibration=null",  # which is off in tiny runs
        config_name="eval",
    )
    pipeline.evaluate(cfg)
    evaluated = read_metrics(tmp_path / "eval")
    assert evaluated and evaluated == of_the_test(read_metrics(run_dir))


def test_run_directory_holds_settings_and_figures(compose_config: Callable[..., Any], tmp_path: Path) -> None:
    cfg = compose_config(*TINY, *PLAIN)
    returned = pipeline.train(cfg)
    figures = read_metrics(tmp_path / "run")
    assert figures["val/acc"] == returned and figures["epochs"] == 2 and figures["fit_seconds"] > 0
    assert set(figures) >= {f"{stage}/{name}" for stage in ("train", "val", "test") for name in ("loss", "acc")}
    saved = OmegaConf.load(tmp_path / "run" / "config.yaml")
    assert saved.data.num_samples == 200 and saved.data.seed == saved.seed == 1  # resolved
    best = torch.load(tmp_path / "run" / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["metrics"]["val/acc"] == pytest.approx(returned)
    assert best["recipe"]["class_names"] == [f"class {index}" for index in range(4)]
    assert best["recipe"]["mean"] == [0.5] and best["recipe"]["std"] == [0.25]


def test_train_false_tests_the_checkpoint(train: Callable[..., Path], tmp_path: Path) -> None:
    first = train(*PLAIN, "trainer.max_epochs=8", "data.batch_size=16")
    trained = read_metrics(first)
    # Another seed and other data settings: were anything but the checkpoint used, the figures would differ.
    second = train(
        *PLAIN,
        "train=false",
        f"ckpt_path={first}/checkpoints/best.ckpt",
        "seed=5",
        "model.net.hidden_sizes=[3]",
        f"paths.run_dir={tmp_path}/second",
    )
    assert of_the_test(read_metrics(second)) == of_the_test(trained)
    assert trained["test/acc"] > 0.5  # of 4 classes: random weights would not get there


@pytest.mark.parametrize("step", [4, 8, 11])  # 8 steps an epoch: inside the first, at its end, inside the second
def test_resumed_run_ends_where_the_straight_run_ended(train: Callable[..., Path], tmp_path: Path, step: int) -> None:
    settings = (
        *PLAIN,
        "trainer.max_epochs=3",
        "data.batch_size=16",
        "data.mirror=true",  # for the sake of the flips
        "data.augmentation={_target_: image_classifier.data.augment.Augmentation, flip: 0.5, shift: 1}",
        "+callbacks.every={_target_: pytorch_lightning.callbacks.ModelCheckpoint, filename: '{step}', "
        "dirpath: '${paths.run_dir}/checkpoints', save_top_k: -1, every_n_train_steps: 1}",
        "callbacks.early_stopping=null",
    )
    straight = train(*settings) / "checkpoints"
    checkpoint = f"{straight}/step\\={step}.ckpt"  # Hydra's grammar wants the second = escaped
    resumed = train(*settings, f"ckpt_path={checkpoint}", f"paths.run_dir={tmp_path}/resumed") / "checkpoints"
    one, other = (torch.load(directory / "step=24.ckpt", weights_only=True) for directory in (straight, resumed))
    assert one["global_step"] == other["global_step"] == 24
    for name, weight in one["state_dict"].items():
        assert torch.equal(weight, other["state_dict"][name]), name
    assert one["lr_schedulers"] == other["lr_schedulers"]


def test_another_network_cannot_be_resumed(train: Callable[..., Path]) -> None:
    run_dir = train(*PLAIN, "trainer.max_epochs=1")
    with pytest.raises(UserError, match=r"go on with model.net.hidden_sizes=\[16\] as .* but found .*\[3\]"):
        train(*PLAIN, f"ckpt_path={run_dir}/checkpoints/last.ckpt", "model.net.hidden_sizes=[3]")


def test_data_that_moved_is_named_by_hand_and_other_classes_are_refused(
    train: Callable[..., Path], compose_config: Callable[..., Any], tmp_path: Path
) -> None:
    run_dir = train(*PLAIN, "trainer.max_epochs=1")
    checkpoint = torch.load(run_dir / "checkpoints" / "best.ckpt", weights_only=True)
    checkpoint["recipe"]["class_names"][0] = "another"
    torch.save(checkpoint, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match=r"expected the classes .*another.* but found class 0, .*data\.root=DIR"):
        pipeline.load_run(str(tmp_path / "other.ckpt"))


def run_debug(compose_config: Callable[..., Any], mode: str, *overrides: str) -> tuple[dict[str, float], Path]:
    tiny = [setting for setting in TINY if not setting.startswith("trainer.max_epochs")]
    cfg = compose_config(*tiny, *PLAIN, "data.batch_size=16", f"debug={mode}", *overrides)
    pipeline.train(cfg)
    run_dir = Path(cfg.paths.run_dir)
    return read_metrics(run_dir), run_dir


def steps(run_dir: Path) -> int:
    return torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]


def test_debug_one_batch(compose_config: Callable[..., Any]) -> None:
    figures, run_dir = run_debug(compose_config, "one_batch")
    assert steps(run_dir) == 1 and figures["epochs"] == 1 and "test/acc" in figures


def test_debug_overfit_learns_its_batches_by_heart(compose_config: Callable[..., Any]) -> None:
    figures, run_dir = run_debug(compose_config, "overfit")
    assert steps(run_dir) == 150 and figures["train/acc"] == 1.0 and "test/acc" not in figures


def test_debug_limited_data(compose_config: Callable[..., Any]) -> None:
    _, run_dir = run_debug(
        compose_config,
        "limited_data",
        "trainer.limit_train_batches=0.25",
        "trainer.limit_val_batches=1",
        "trainer.max_epochs=1",
        "test=false",
    )
    assert steps(run_dir) == 2


def test_debug_profiler_prints_its_table(
    compose_config: Callable[..., Any], capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    run_debug(compose_config, "profiler")
    assert "run_training_epoch" in capfd.readouterr().out + caplog.text


def test_batch_normalisation_of_one_image_is_told(train: Callable[..., Path]) -> None:
    net = ("model.net._target_=image_classifier.models.cnn.CNN", "~model.net.hidden_sizes", "+model.net.channels=[4]")
    with pytest.raises(UserError, match=r"at least two images a batch.* data.batch_size=2"):
        train(*PLAIN, *net, "data.batch_size=1")
    train(*PLAIN, "data.batch_size=1", "trainer.limit_train_batches=3")  # without it, one will do


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_the_shortest_trainings_have_a_schedule_too(train: Callable[..., Path], steps: int) -> None:
    run_dir = train(*PLAIN, "trainer.max_epochs=1", "data.batch_size=8", f"trainer.limit_train_batches={steps}")
    assert json.loads((run_dir / "metrics.json").read_text())["epochs"] == 1


def test_shortcuts_change_nothing_that_a_run_leaves_behind(train: Callable[..., Path], tmp_path: Path) -> None:
    settings = (
        *("logger=csv", "confusion_matrix=scalar", "trainer.max_epochs=3", "data.batch_size=16"),
        "data.mirror=true",
        "data.augmentation={_target_: image_classifier.data.augment.Augmentation, flip: 0.5, shift: 1}",
        "+metrics.f1={_target_: torchmetrics.classification.MulticlassF1Score}",
    )
    runs = {
        shortcuts: train(*settings, f"shortcuts={shortcuts}", f"paths.run_dir={tmp_path}/{shortcuts}")
        for shortcuts in ("true", "false")
    }
    states = [torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in runs.values()]
    assert states[0]["lr_schedulers"] == states[1]["lr_schedulers"] and states[0]["global_step"] == 24
    torch.testing.assert_close(states[0]["state_dict"], states[1]["state_dict"], rtol=0, atol=0)
    moments = [state["optimizer_states"][0]["state"] for state in states]
    torch.testing.assert_close(*moments, rtol=0, atol=0)
    figures = [read_metrics(run) for run in runs.values()]
    assert all(run.pop("fit_seconds") > 0 for run in figures)
    assert figures[0] == figures[1] and "test/f1" in figures[0]
    for name in ("csv/metrics.csv", "confusion_matrix/val.csv", "confusion_matrix/test.csv"):
        short, own = ((run / name).read_text() for run in runs.values())
        assert short == own, name
