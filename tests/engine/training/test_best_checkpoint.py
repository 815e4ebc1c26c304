"""The best checkpoint is the best, and what is tested is what was chosen, whatever decides when to look."""

import csv
import json
import math
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from sklearn.metrics import accuracy_score

from image_classifier import pipeline
from image_classifier.engine.confusion.matrix import from_csv
from image_classifier.engine.errors import UserError
from image_classifier.engine.metric_modes import metric_mode
from image_classifier.engine.sweeps.objectives import optuna_direction
from image_classifier.engine.training.best_checkpoint import BestCheckpoint, checkpoint_of_run
from tiny import EVERY_EPOCH

PLAIN = (
    "trainer.precision=32-true",
    "logger=csv",
    "confusion_matrix=none",
    "callbacks.early_stopping=null",
    "data.batch_size=16",
)
NOISY = ("model.optimizer.lr=0.3", "model.scheduler=null", "trainer.max_epochs=5")  # goes up and down


def saved(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def read_metrics(run_dir: Path) -> dict[str, float]:
    return json.loads((run_dir / "metrics.json").read_text())


def validations(run_dir: Path, metric: str) -> list[float]:
    """The course of a metric as the CSV logger wrote it."""
    with (run_dir / "csv" / "metrics.csv").open() as file:
        return [float(row[metric]) for row in csv.DictReader(file) if row.get(metric)]


def evaluated_by_hand(checkpoint: Path) -> dict[str, float]:
    """Validation and test accuracy of a checkpoint's weights, in a plain loop over the rebuilt data."""
    model, data = pipeline.load_run(str(checkpoint))
    model.eval()
    data.setup("fit")
    data.setup("test")
    found = {}
    for stage, loader in (("val", data.val_dataloader()), ("test", data.test_dataloader())):
        predicted, targets = [], []
        for images, labels in loader:
            pixels = (images / 255 - torch.tensor(data.mean).view(-1, 1, 1)) / torch.tensor(data.std).view(-1, 1, 1)
            with torch.no_grad():
                predicted += model(pixels).argmax(1).tolist()
            targets += labels.tolist()
        found[f"{stage}/acc"] = accuracy_score(targets, predicted)
    return found


def check_consistency(run_dir: Path, metric: str = "val/acc") -> None:
    """metrics.json, val.csv, test.csv and best.ckpt speak of the same weights, and none validated better."""
    figures, best = read_metrics(run_dir), saved(run_dir / "checkpoints" / "best.ckpt")
    course = validations(run_dir, metric)
    extreme = min(course) if metric == "val/loss" else max(course)
    assert figures[metric] == pytest.approx(extreme, rel=1e-5)
    assert best["metrics"][metric] == pytest.approx(extreme, rel=1e-5)
    by_hand = evaluated_by_hand(run_dir / "checkpoints" / "best.ckpt")
    for stage in ("val", "test"):
        counts, _ = from_csv((run_dir / "confusion_matrix" / f"{stage}.csv").read_text())
        assert float(counts.diagonal().sum() / counts.sum()) == pytest.approx(by_hand[f"{stage}/acc"])
        assert figures[f"{stage}/acc"] == pytest.approx(by_hand[f"{stage}/acc"], abs=1e-6)


@pytest.mark.sampled(every=2)
@pytest.mark.parametrize("metric", ["val/acc", "val/loss", "val/macro_f1"])
@pytest.mark.parametrize("top_k", [1, 3, -1])
def test_best_is_best_for_every_metric_and_number_kept(train: Callable[..., Path], metric: str, top_k: int) -> None:
    run_dir = train(*PLAIN, *NOISY, f"monitor.metric={metric}", f"callbacks.model_checkpoint.save_top_k={top_k}")
    check_consistency(run_dir, metric)
    others = sorted((run_dir / "checkpoints").glob("epoch_*.ckpt"))
    assert len(others) == {1: 0, 3: 3, -1: 5}[top_k]
    kept = sorted(saved(path)["metrics"][metric] for path in others)
    course = sorted(validations(run_dir, metric), reverse=metric != "val/loss")
    if top_k == 3:
        assert sorted(kept) == pytest.approx(sorted(course[:3]), rel=1e-5)


@pytest.mark.sampled(every=2)
@pytest.mark.parametrize("filename", ["best", "'{epoch:03d}'", "'model_{val/acc:.3f}'"])
@pytest.mark.parametrize("top_k", [1, 2])
def test_names_of_ones_own_keep_best_ckpt(train: Callable[..., Path], filename: str, top_k: int) -> None:
    settings = (f"+callbacks.model_checkpoint.filename={filename}", f"callbacks.model_checkpoint.save_top_k={top_k}")
    check_consistency(train(*PLAIN, *NOISY, *settings))


def test_none_kept_tests_the_last_weights(train: Callable[..., Path]) -> None:
    run_dir = train(*PLAIN, *NOISY, "callbacks.model_checkpoint.save_top_k=0")
    assert [path.name for path in (run_dir / "checkpoints").iterdir()] == ["last.ckpt"]
    by_hand = evaluated_by_hand(run_dir / "checkpoints" / "last.ckpt")
    assert read_metrics(run_dir)["test/acc"] == pytest.approx(by_hand["test/acc"], abs=1e-6)
    assert read_metrics(run_dir)["val/acc"] == pytest.approx(by_hand["val/acc"], abs=1e-6)


def differences(first: Any, second: Any, path: str = "") -> list[str]:
    """The keys under which two checkpoints differ."""
    if isinstance(first, dict) and isinstance(second, dict) and list(first) == list(second):
        return [key for name in first for key in differences(first[name], second[name], f"{path}/{name}")]
    if isinstance(first, list | tuple) and type(first) is type(second) and len(first) == len(second):
        pairs = enumerate(zip(first, second, strict=True))
        return [key for index, (a, b) in pairs for key in differences(a, b, f"{path}/{index}")]
    same = torch.equal(first, second) if isinstance(first, torch.Tensor) else first == second
    return [] if same else [path]


@pytest.mark.parametrize("logger", ["csv", "tensorboard"])
@pytest.mark.parametrize("further", ["", "+callbacks.ema={_target_: pytorch_lightning.callbacks.EMAWeightAveraging}"])
def test_a_last_epoch_that_is_the_best_is_written_once(
    train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, logger: str, further: str
) -> None:
    improving = (
        *PLAIN,
        f"logger={logger}",
        "monitor.metric=val/loss",
        "trainer.max_epochs=3",
        *filter(None, [further]),
    )
    checkpoints = train(*improving) / "checkpoints"
    assert (checkpoints / "last.ckpt").samefile(checkpoints / "best.ckpt")
    once = saved(checkpoints / "last.ckpt")
    monkeypatch.setattr(BestCheckpoint, "saved_now", lambda *_: None)
    again = train(*improving) / "checkpoints"
    assert not (again / "last.ckpt").samefile(again / "best.ckpt")
    written = saved(again / "last.ckpt")
    for checkpoint in (
        once,
        written,
    ):  # the run directories differ, and a file of TensorBoard has its second in its name
        for name in [name for name in checkpoint["callbacks"] if name.startswith("BestCheckpoint")]:
            del checkpoint["callbacks"][name]
        checkpoint.pop("logged", None)
    assert differences(once, written) == []


@pytest.mark.parametrize(
    ("when", "same"),
    [
        (("trainer.val_check_interval=0.5",), False),  # best.ckpt is written before the end of its epoch
        (("callbacks.model_checkpoint.save_top_k=2",), True),
        (("callbacks.model_checkpoint.save_weights_only=true",), False),
        (("trainer.check_val_every_n_epoch=2",), False),
    ],
)
def test_otherwise_last_is_a_file_of_its_own(train: Callable[..., Path], when: tuple[str, ...], same: bool) -> None:
    checkpoints = (
        train(*PLAIN, "monitor.metric=val/loss", "trainer.max_epochs=3", *(f"++{o}" for o in when)) / "checkpoints"
    )
    assert (checkpoints / "last.ckpt").samefile(checkpoints / "best.ckpt") == same
    last = saved(checkpoints / "last.ckpt")
    assert last["optimizer_states"]
    assert (last["epoch"], last["global_step"]) == (2, 24)


def test_a_best_checkpoint_without_the_state_of_the_training(train: Callable[..., Path], tmp_path: Path) -> None:
    settings = (*PLAIN, *NOISY, "++callbacks.model_checkpoint.save_weights_only=true")
    run_dir = train(*settings)
    check_consistency(run_dir)
    best = run_dir / "checkpoints" / "best.ckpt"
    assert not {"optimizer_states", "lr_schedulers"} & saved(best).keys()
    with pytest.raises(UserError, match=f"only the weights in {best}.*last.ckpt.*model.init_from={best}"):
        train(*settings, f"ckpt_path={best}", f"paths.run_dir={tmp_path / 'other'}")
    went_on = train(
        *settings,
        "trainer.max_epochs=7",
        f"ckpt_path={best.with_name('last.ckpt')}",
        f"paths.run_dir={tmp_path / 'on'}",
    )
    figures = read_metrics(went_on)
    earlier, later = validations(run_dir, "val/acc"), validations(went_on, "val/acc")
    assert (figures["epochs"], figures["val/acc"]) == (7, pytest.approx(max(earlier + later), rel=1e-5))


WHEN = [
    ("trainer.check_val_every_n_epoch=2",),  # 5 epochs: the last one is not validated by Lightning
    ("trainer.check_val_every_n_epoch=5",),
    ("trainer.check_val_every_n_epoch=7",),  # none is
    ("trainer.val_check_interval=0.5",),
    ("trainer.val_check_interval=0.3",),
    ("trainer.val_check_interval=3",),
    ("trainer.val_check_interval=1",),  # after each batch
    ("trainer.val_check_interval=11", "trainer.check_val_every_n_epoch=null"),
    ("trainer.max_epochs=-1", "trainer.max_steps=19"),
    ("trainer.max_steps=20",),
    ("trainer.limit_train_batches=0.3",),
    ("trainer.accumulate_grad_batches=3",),
]


@pytest.mark.sampled(every=3)
@pytest.mark.parametrize(
    ("when", "metric"), [(when, "val/acc") for when in WHEN] + [(when, "val/loss") for when in WHEN[:4]]
)
def test_best_and_last_whenever_the_validation_comes(
    train: Callable[..., Path], when: tuple[str, ...], metric: str
) -> None:
    run_dir = train(*PLAIN, *NOISY, f"monitor.metric={metric}", *(f"++{override}" for override in when))
    check_consistency(run_dir, metric)
    steps = {("trainer.max_epochs=-1", "trainer.max_steps=19"): 19, ("trainer.max_steps=20",): 20}
    a_epoch = {("trainer.limit_train_batches=0.3",): 2, ("trainer.accumulate_grad_batches=3",): 3}
    assert saved(run_dir / "checkpoints" / "last.ckpt")["global_step"] == steps.get(when, 5 * a_epoch.get(when, 8))


@pytest.mark.parametrize("setting", [{"every_n_train_steps": 5}, {"train_time_interval": timedelta(minutes=1)}])
def test_weights_that_were_not_validated_are_no_best(train: Callable[..., Path], setting: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="found every_n_train_steps or train_time_interval; validate more often"):
        BestCheckpoint("checkpoints", monitor="val/acc", mode="max", **setting)
    BestCheckpoint("checkpoints", **setting)  # the latest, whatever it is worth


@pytest.mark.parametrize("first", [True, False])
def test_a_checkpoint_callback_of_ones_own_leaves_the_best_of_the_run_as_it_is(first: bool) -> None:
    own = ModelCheckpoint("own", monitor="val/loss")
    best = BestCheckpoint("checkpoints", monitor="val/acc", mode="max")
    callbacks = [own, best] if first else [best, own]
    trainer = pl.Trainer(accelerator="cpu", logger=False, callbacks=callbacks)
    assert checkpoint_of_run(trainer) is best
    assert checkpoint_of_run(pl.Trainer(accelerator="cpu", logger=False, callbacks=[own])) is own


AVERAGING = {
    "ema": "{_target_: pytorch_lightning.callbacks.EMAWeightAveraging, decay: 0.95}",
    "ema_from_epoch": "{_target_: pytorch_lightning.callbacks.EMAWeightAveraging, update_starting_at_epoch: 2}",
    "averaging": "{_target_: pytorch_lightning.callbacks.WeightAveraging}",
    "swa": "{_target_: pytorch_lightning.callbacks.StochasticWeightAveraging, swa_lrs: 0.05, swa_epoch_start: 2}",
    "swa_late": "{_target_: pytorch_lightning.callbacks.StochasticWeightAveraging, swa_lrs: 0.1, swa_epoch_start: 0.9}",
}


@pytest.mark.sampled(every=3)
@pytest.mark.parametrize("model", ["mlp", "cnn"])  # without and with batch normalisation
@pytest.mark.parametrize("name", AVERAGING)
def test_averaged_weights_are_tested_when_they_were_chosen(
    train: Callable[..., Path], compose_config: Callable[..., Any], tmp_path: Path, name: str, model: str
) -> None:
    net = ("model.net._target_=image_classifier.models.cnn.CNN", "~model.net.hidden_sizes", "+model.net.channels=[4]")
    run_dir = train(*PLAIN, *NOISY, f"+callbacks.averaging={AVERAGING[name]}", *(net if model == "cnn" else ()))
    check_consistency(run_dir)
    cfg = compose_config(
        f"ckpt_path={run_dir}/checkpoints/best.ckpt",
        f"paths.run_dir={tmp_path}/eval",
        "callbacks=none",
        config_name="eval",
    )
    assert pipeline.evaluate(cfg) == pytest.approx(read_metrics(run_dir)["test/acc"], abs=1e-7)


class Forget(pl.Callback):
    """Changes the weights when nobody expects it any more, as a callback of one's own may do."""

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        with torch.no_grad():
            for parameter in pl_module.parameters():
                parameter.zero_()


def test_weights_that_change_at_the_very_end_are_validated_again(
    train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Forget, "__module__", "pytorch_lightning.callbacks")
    monkeypatch.setattr(pl.callbacks, "Forget", Forget, raising=False)
    validations: list[int] = []
    monkeypatch.setattr(pl.Trainer, "validate", lambda *arguments, **settings: validations.append(1))
    train(*PLAIN, "trainer.max_epochs=1")
    assert not validations
    train(*PLAIN, "trainer.max_epochs=1", "+callbacks.forget={_target_: pytorch_lightning.callbacks.Forget}")
    assert validations


@pytest.mark.parametrize("name", ["ema", "averaging", "swa"])
def test_a_resumed_run_goes_on_from_the_raw_weights(train: Callable[..., Path], tmp_path: Path, name: str) -> None:
    settings = (*PLAIN, *NOISY, EVERY_EPOCH, f"+callbacks.averaging={AVERAGING[name]}")
    straight = train(*settings, f"paths.run_dir={tmp_path}/straight")
    checkpoint = f"ckpt_path={straight}/checkpoints/epoch_2.ckpt"
    resumed = train(*settings, checkpoint, f"paths.run_dir={tmp_path}/resumed")
    one, other = (saved(path / "checkpoints" / "epoch_4.ckpt") for path in (straight, resumed))
    for key in ("state_dict", "current_model_state"):
        for weight, expected in one.get(key, {}).items():
            assert torch.equal(expected, other[key][weight]), (key, weight)
    assert read_metrics(straight)["test/acc"] == read_metrics(resumed)["test/acc"]


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("val/loss", "min"),
        ("val/acc", "max"),
        ("val/macro_f1", "max"),
        ("val/balanced_acc", "max"),
        ("val/ece", "min"),
        ("val/auroc", "max"),
        ("test/error", "min"),
        ("val/glory", None),
        ("parameters", None),
        ("val/recall/hair_loss", "max"),
        ("val/error/accurate_f1", "min"),
        ("val/glory/hair_loss", None),
        ("per_class/val/recall/loss", "max"),
        ("per_class/test/f1/error", "max"),
        ("loss", "min"),
        ("val/", None),
    ],
)
def test_direction_follows_from_the_name(name: str, mode: str | None) -> None:
    assert metric_mode(name) == mode


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["monitor.metric=val/loss", "monitor.mode=max"], "monitor.mode to be min for val/loss but found max"),
        (["monitor.mode=min"], "monitor.mode to be max for val/acc but found min"),
        (["monitor.metric=val/glory"], "monitor.mode to be max or min for monitor.metric=val/glory"),
        (["+objectives={val/loss: max}"], "objectives to be min for val/loss but found max"),
        (["objectives={val/acc: min, parameters: min}"], "objectives to be max for val/acc"),
    ],
)
def test_a_contradiction_is_refused(compose_config: Callable[..., Any], overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        compose_config("data=synthetic", *(text.replace("+objectives", "objectives") for text in overrides))


def test_early_stopping_and_sweeps_follow_the_direction(compose_config: Callable[..., Any]) -> None:
    cfg = compose_config("data=synthetic", "monitor.metric=val/loss")
    assert cfg.callbacks.early_stopping.mode == cfg.callbacks.model_checkpoint.mode == cfg.model.monitor_mode == "min"
    assert optuna_direction(_root_=cfg) == "minimize"
    glory = "+metrics.glory={_target_: torchmetrics.classification.MulticlassAccuracy}"
    cfg = compose_config("data=synthetic", glory, "monitor.metric=val/glory", "monitor.mode=max")
    assert cfg.callbacks.early_stopping.mode == "max" and optuna_direction(_root_=cfg) == "maximize"


def test_the_objective_is_that_of_the_best(compose_config: Callable[..., Any]) -> None:
    from tiny import TINY

    cfg = compose_config(*TINY, *PLAIN, *NOISY, "monitor.metric=val/loss", "++trainer.check_val_every_n_epoch=2")
    value = pipeline.train(cfg)
    assert math.isclose(value, min(validations(Path(cfg.paths.run_dir), "val/loss")), rel_tol=1e-5)


def logged_cells(run_dir: Path) -> list[set[str]]:
    """Keys of the cells of the validation matrix, by epoch."""
    with (run_dir / "csv" / "metrics.csv").open() as file:
        rows = [{key for key, value in row.items() if value} for row in csv.DictReader(file)]
    cells = [{key for key in row if key.startswith("confusion_matrix/val/")} for row in rows]
    return [keys for keys in cells if keys]


def test_cells_of_a_large_matrix_are_the_same_through_a_run(train: Callable[..., Path], tmp_path: Path) -> None:
    few = ("confusion_matrix=scalar", "confusion_matrix.max_cells=4", "confusion_matrix.top_confusions=2")
    settings = ("logger=csv", *few, *NOISY, "data.batch_size=16", "callbacks.early_stopping=null")
    first = logged_cells(run_dir := train(*settings))
    assert len(first) == 5 and all(keys == first[0] for keys in first)
    assert len(first[0]) == 4 + 2  # the diagonal and two confusions
    resumed = train(*settings, "trainer.max_epochs=7", f"ckpt_path={run_dir}/checkpoints/last.ckpt",
                    f"paths.run_dir={tmp_path}/resumed")  # fmt: skip
    assert logged_cells(resumed) == [first[0]] * 2
