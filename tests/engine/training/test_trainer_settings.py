"""The options of Lightning's Trainer, one by one: each holds, or is refused in a line before training starts."""

import inspect
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint, ModelSummary, ProgressBar

from image_classifier import pipeline
from image_classifier.engine.errors import UserError
from image_classifier.engine.launch import assembly

PLAIN = ("logger=csv", "confusion_matrix=none", "data.batch_size=32")

# Option of the Trainer: values to try.
MATRIX: dict[str, list[Any]] = {
    "accelerator": ["cpu", "auto"],
    "strategy": ["auto", "ddp"],
    "devices": [1, "auto", "[0]"],
    "num_nodes": [1],
    "precision": ["32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true", 32, "bf16", "64"],
    "logger": [],  # a group of its own
    "callbacks": [],  # a group of its own
    "fast_dev_run": [True, 2, False],
    "max_epochs": [1],
    "min_epochs": [1],
    "max_steps": [3, -1],
    "min_steps": [2],
    "max_time": ["'00:00:00:30'"],
    "limit_train_batches": [0, 0.0, 0.01, 1, 3, 1.0],
    "limit_val_batches": [0, 0.0, 0.01, 1, 1.0],
    "limit_test_batches": [0.01, 1, 1.0],
    "limit_predict_batches": [1],
    "overfit_batches": [1, 0.01, 0.0],
    "val_check_interval": [0.5, 1, 2, 1.0],
    "check_val_every_n_epoch": [1, 2],
    "num_sanity_val_steps": [0, 2, -1],
    "log_every_n_steps": [1, 7],
    "enable_checkpointing": [False, True],
    "enable_progress_bar": [False, True],
    "enable_model_summary": [False, True],
    "accumulate_grad_batches": [1, 3, 100],
    "gradient_clip_val": [0.5, 0, None],
    "gradient_clip_algorithm": ["norm", "value"],
    "deterministic": [True, False, "warn"],
    "benchmark": [True],
    "inference_mode": [True, False],
    "use_distributed_sampler": [False],
    "profiler": ["simple", None],
    "detect_anomaly": [True],
    "barebones": [True],
    "plugins": [],  # objects
    "sync_batchnorm": [True],
    "reload_dataloaders_every_n_epochs": [1],
    "default_root_dir": [],  # the run directory
    "enable_autolog_hparams": [False],
    "model_registry": [],  # a service
}
REFUSED = {
    ("barebones", True): "expected trainer.barebones to be false",
    ("devices", "[0]"): "expected settings that pytorch_lightning.Trainer takes .* should be an int > 0",
}
OF_THE_NETWORK = ("precision", "gradient_clip_val", "strategy", "overfit_batches")  # tried with two networks
CASES = [
    (option, value, model)
    for option, values in MATRIX.items()
    for value in values
    for model in (("mlp", "cnn") if option in OF_THE_NETWORK else ("mlp",))
]


@pytest.fixture(autouse=True)
def leave_the_process_as_it_was() -> Iterator[None]:
    environment = dict(os.environ)
    yield
    torch.use_deterministic_algorithms(False)
    if torch.distributed.is_initialized():  # by strategy=ddp, which also names its port in the environment
        torch.distributed.destroy_process_group()
    for name in set(os.environ) - set(environment):
        del os.environ[name]


def test_an_option_is_not_left_to_the_next_job(train: Callable[..., Path]) -> None:
    train(*PLAIN, "+trainer.deterministic=true", "trainer.max_epochs=1")
    assert torch.are_deterministic_algorithms_enabled()
    train(*PLAIN, "trainer.max_epochs=1")
    assert not torch.are_deterministic_algorithms_enabled()


def test_every_option_is_in_the_matrix() -> None:
    assert set(inspect.signature(pl.Trainer.__init__).parameters) - {"self"} == set(MATRIX)


@pytest.mark.sampled(every=5)
@pytest.mark.parametrize(
    ("option", "value", "model"), CASES, ids=[f"{option}={value}-{model}" for option, value, model in CASES]
)
def test_each_value_trains_and_tests(train: Callable[..., Path], option: str, value: Any, model: str) -> None:
    refused = REFUSED.get((option, value))
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else value
    epochs = () if option == "max_epochs" else ("trainer.max_epochs=2",)
    net = ("model.net._target_=image_classifier.models.cnn.CNN", "~model.net.hidden_sizes", "+model.net.channels=[4]")
    overrides = [*PLAIN, *epochs, *(net if model == "cnn" else ()), f"++trainer.{option}={text}"]
    if refused:
        with pytest.raises(UserError, match=refused):
            train(*overrides)
        return
    run_dir = train(*overrides)
    figures = json.loads((run_dir / "metrics.json").read_text())
    assert 0 <= figures["test/acc"] <= 1 and figures["epochs"] <= 2
    without_training = option == "limit_train_batches" and value == 0
    without_validation = without_training or (option == "limit_val_batches" and value == 0)
    assert ("val/acc" in figures) == (not without_validation)
    keeping = {"enable_checkpointing": value is True, "fast_dev_run": value is False}
    kept = keeping.get(option, True)
    assert (run_dir / "checkpoints" / "last.ckpt").is_file() == (kept and not without_training)
    assert (run_dir / "checkpoints" / "best.ckpt").is_file() == (kept and not without_training)


@pytest.mark.parametrize(
    ("option", "value", "batches"),
    [
        ("limit_train_batches", 0.01, 1),
        ("limit_train_batches", 0.5, 2),
        ("limit_train_batches", 3, 3),
        ("overfit_batches", 0.01, 1),
    ],
)
def test_a_fraction_of_less_than_a_batch_is_a_batch(
    train: Callable[..., Path], option: str, value: float, batches: int
) -> None:
    run_dir = train(*PLAIN, f"++trainer.{option}={value}", "trainer.max_epochs=1", "test=false")
    assert torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == batches


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trainer.max_epochs=-1"], r"an end of the training .* \+trainer.max_steps"),
        (["trainer.max_epochs=0"], "trainer.max_epochs to be a whole number"),
        (["trainer.max_epochs=-2"], "trainer.max_epochs to be a whole number"),
        (["trainer.precision=float32"], "trainer.precision to be one of"),
        (["monitor.metric=train/loss"], "monitor.metric to be the key of a validation metric"),
    ],
)
def test_what_cannot_be_is_told_before_the_training(
    compose_config: Callable[..., Any], overrides: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        compose_config("data=synthetic", *overrides)


def test_endless_epochs_end_with_steps_or_time(train: Callable[..., Path]) -> None:
    run_dir = train(*PLAIN, "trainer.max_epochs=-1", "+trainer.max_steps=9")
    assert torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 9
    with pytest.raises(UserError, match="a training of known length for OneCycleLR"):
        train(*PLAIN, "trainer.max_epochs=-1", "+trainer.max_time='00:00:00:01'")
    train(*PLAIN, "trainer.max_epochs=-1", "+trainer.max_time='00:00:00:01'", "model.scheduler=null")


@pytest.mark.sampled(every=4)
@pytest.mark.parametrize(
    ("precision", "model"),
    [(precision, "mlp") for precision in MATRIX["precision"]] + [("bf16-mixed", "cnn"), ("16-true", "cnn")],
)
def test_evaluation_repeats_the_test_in_every_precision(
    train: Callable[..., Path], compose_config: Callable[..., Any], tmp_path: Path, precision: Any, model: str
) -> None:
    """The default of all three commands is another precision, or the machine's choice."""
    net = ("model.net._target_=image_classifier.models.cnn.CNN", "~model.net.hidden_sizes", "+model.net.channels=[4]")
    overrides = ("logger=none", f"trainer.precision={precision}", *(net if model == "cnn" else ()))
    run_dir = train(*overrides)
    expected = json.loads((run_dir / "metrics.json").read_text())
    given = [f"ckpt_path={run_dir}/checkpoints/best.ckpt", "callbacks=none", "logger=none"]
    pipeline.evaluate(compose_config(*given, f"paths.run_dir={tmp_path}/eval", config_name="eval"))
    pipeline.train(compose_config("data=synthetic", *given, f"paths.run_dir={tmp_path}/again", "train=false"))
    for other in ("eval", "again"):
        found = json.loads((tmp_path / other / "metrics.json").read_text())
        for name in ("test/acc", "test/loss"):
            assert found[name] == expected[name], (other, name)


@pytest.mark.parametrize(
    ("overrides", "there"),
    [
        ([], {"bar", "checkpoint", "summary"}),
        (["callbacks.progress_bar=null"], {"checkpoint", "summary"}),
        (["callbacks.model_summary=null"], {"bar", "checkpoint"}),
        (["callbacks.model_checkpoint=null", "callbacks.last_checkpoint=null"], {"bar", "summary"}),
        (["callbacks=none"], set()),
        (["callbacks=none", "+trainer.enable_progress_bar=true"], {"bar"}),
        (["callbacks=none", "+trainer.enable_checkpointing=true"], {"checkpoint"}),
    ],
)
def test_lightning_adds_nothing_in_place_of_what_is_left_out(
    compose_config: Callable[..., Any], overrides: list[str], there: set[str]
) -> None:
    cfg = compose_config("data=synthetic", "trainer.precision=32-true", "logger=none", *overrides)
    trainer = assembly.make_trainer(cfg, [])
    kinds = {"bar": ProgressBar, "checkpoint": Checkpoint, "summary": ModelSummary}
    assert {name for name, kind in kinds.items() if any(isinstance(c, kind) for c in trainer.callbacks)} == there


def test_a_run_without_callbacks_tests_its_last_weights_and_leaves_no_checkpoint(
    compose_config: Callable[..., Any],
) -> None:
    cfg = compose_config(*PLAIN, "callbacks=none", "data=synthetic", "model=mlp", "trainer.max_epochs=1")
    pipeline.train(cfg)
    assert "test/acc" in json.loads(Path(cfg.paths.run_dir, "metrics.json").read_text())
    assert not list(Path(cfg.paths.run_dir).rglob("*.ckpt"))
