"""Classifier against a plain PyTorch loop, its schedulers, and checkpoints that rebuild everything."""

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, ReduceLROnPlateau, StepLR
from torch.utils.data import DataLoader, TensorDataset

from image_classifier import pipeline
from image_classifier.data.synthetic import Synthetic
from image_classifier.engine.launch import assembly
from image_classifier.engine.training.checkpoint_contents import CheckpointContents
from image_classifier.engine.training.metrics import EpochMetrics
from image_classifier.models.classifier import Classifier
from image_classifier.models.cnn import CNN
from image_classifier.models.focal_loss import FocalLoss
from image_classifier.models.mlp import MLP

SHAPE = (1, 8, 8)
NETS = {"mlp": partial(MLP, hidden_sizes=[16]), "cnn": partial(CNN, channels=[4, 8])}


def make_net(name: str) -> nn.Module:
    torch.manual_seed(0)
    return NETS[name](SHAPE, 4)


def make_data() -> Synthetic:
    data = Synthetic(num_classes=4, num_samples=120, image_size=8, batch_size=16, val_size=0.25)
    data.setup("fit")
    data.setup("test")
    return data


def fit(model: Classifier, data: pl.LightningDataModule | None = None, **settings: Any) -> pl.Trainer:
    settings["callbacks"] = [EpochMetrics(), *settings.get("callbacks", [])]
    trainer = pl.Trainer(
        **{
            "accelerator": "cpu",
            "max_epochs": 2,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "use_distributed_sampler": False,
        }
        | settings
    )
    trainer.fit(model, data or make_data())
    return trainer


SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
@pytest.mark.parametrize("ignored_class", [None, 2])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("net", NETS)
def test_weights_and_metrics_equal_those_of_a_plain_loop(
    net: str, channels_last: bool, ignored_class: int | None, label_smoothing: float
) -> None:
    ignore_index = -100 if ignored_class is None else ignored_class
    plain, data = make_net(net), make_data()
    optimizer = SGD(plain.parameters())
    schedule = OneCycleLR(optimizer, max_lr=0.05, total_steps=10, cycle_momentum=False)  # 5 steps in each of 2 epochs
    assert data.train_images is not None and data.test_images is not None
    for epoch in range(2):
        loader = data.train_dataloader()
        loader.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]
        plain.train()
        for images, labels in loader:
            pixels = (images / 255 - 0.5) / 0.25
            loss = F.cross_entropy(plain(pixels), labels, label_smoothing=label_smoothing, ignore_index=ignore_index)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model = Classifier(
        make_net(net),
        SGD,
        partial(OneCycleLR, cycle_momentum=False),
        nn.CrossEntropyLoss(label_smoothing=label_smoothing, ignore_index=ignore_index),
        ignore_index=ignore_index,
        channels_last=channels_last,
    )
    trainer = fit(model)
    for ours, theirs in zip(model.net.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    figures = trainer.test(model, data, verbose=False)[0]
    plain.eval()
    images, labels = data.test_images
    with torch.no_grad():
        logits = plain((images / 255 - 0.5) / 0.25)
    counted = labels != ignore_index
    assert counted.sum() > 0 and (ignored_class is None) == bool(counted.all())
    assert figures["test/loss"] == pytest.approx(F.cross_entropy(logits[counted], labels[counted]).item(), rel=1e-4)
    assert figures["test/acc"] == pytest.approx((logits.argmax(1) == labels)[counted].float().mean().item())


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weight", [None, torch.tensor([1.0, 2.0, 0.5, 1.0])])
@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss, FocalLoss])
def test_batches_of_ignored_samples_only_change_nothing(loss: Any, weight: Any, label_smoothing: float) -> None:
    """As if they were not there; the mean over none of their samples is no number."""
    smoothing = {"label_smoothing": label_smoothing} if loss is nn.CrossEntropyLoss else {}
    images = torch.rand(12, 1, 8, 8)
    labels = torch.tensor([0, 1, 2, 3, 3, 3, 3, 3, 1, 2, 0, 3])  # batches of 4, the second of class 3 only
    weights = []
    for chosen in (list(range(12)), [0, 1, 2, 3, 8, 9, 10, 11]):
        torch.manual_seed(1)
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
        model = Classifier(
            net,
            partial(torch.optim.SGD, lr=0.1),
            None,
            loss(weight=weight, ignore_index=3, **smoothing),
            ignore_index=3,
        )
        batches = DataLoader(TensorDataset(images[chosen], labels[chosen]), 4)
        trainer = pl.Trainer(
            accelerator="cpu", max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, callbacks=[EpochMetrics()],
        )  # fmt: skip
        trainer.fit(model, batches)
        assert trainer.callback_metrics["train/loss"].isfinite()
        weights.append(net[1].weight.detach().clone())
    assert torch.equal(*weights)


class Rates(pl.Callback):
    def __init__(self) -> None:
        self.met: list[float] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: torch.optim.Optimizer) -> None:
        self.met.append(optimizer.param_groups[0]["lr"])


@pytest.mark.parametrize(
    ("settings", "total"),
    [
        ({}, 10),
        ({"accumulate_grad_batches": 2}, 6),  # 2 full ones and the remainder, in each of 2 epochs
        ({"limit_train_batches": 3}, 6),
        ({"max_epochs": -1, "max_steps": 7}, 7),
        ({"limit_train_batches": 0.4, "max_epochs": 3}, 6),
    ],
)
def test_one_cycle_is_as_long_as_the_training(settings: dict[str, Any], total: int) -> None:
    model = Classifier(make_net("mlp"), SGD, partial(OneCycleLR, final_div_factor=100, div_factor=5))
    rates = Rates()
    trainer = fit(model, callbacks=[rates], **settings)
    assert trainer.global_step == total
    scheduler = trainer.lr_scheduler_configs[0].scheduler
    assert scheduler.total_steps == total and trainer.lr_scheduler_configs[0].interval == "step"
    assert len(rates.met) == total
    assert rates.met[0] == pytest.approx(0.05 / 5) and max(rates.met) <= 0.05
    assert rates.met[-1] == pytest.approx(0.05 / 5 / 100)


def test_settings_of_the_scheduler_that_are_given_are_kept() -> None:
    model = Classifier(make_net("mlp"), SGD, partial(OneCycleLR, total_steps=50, max_lr=0.4))
    scheduler = fit(model).lr_scheduler_configs[0].scheduler
    assert scheduler.total_steps == 50 and scheduler.optimizer.param_groups[0]["max_lr"] == 0.4


@pytest.mark.parametrize(
    ("scheduler", "expected"),
    [
        (partial(StepLR, step_size=1, gamma=0.5), 0.05 / 8),
        (partial(CosineAnnealingLR, T_max=3), 0.0),
        (None, 0.05),
    ],
)
def test_other_schedulers_advance_every_epoch(scheduler: Any, expected: float) -> None:
    trainer = fit(Classifier(make_net("mlp"), SGD, scheduler), max_epochs=3)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(expected, abs=1e-9)


def test_plateau_is_watched_on_the_monitored_metric() -> None:
    scheduler = partial(ReduceLROnPlateau, mode="max", patience=0, factor=0.1, threshold=10.0)  # nothing is better
    trainer = fit(Classifier(make_net("mlp"), SGD, scheduler, monitor="val/acc"), max_epochs=3)
    assert trainer.lr_scheduler_configs[0].monitor == "val/acc"
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.05 * 0.1**2)


def test_scheduler_and_optimizer_come_from_the_configuration(compose_config: Callable[..., Any]) -> None:
    cfg = compose_config(
        "data=synthetic",
        "~model.scheduler",
        "+model.scheduler={_target_: torch.optim.lr_scheduler.ReduceLROnPlateau, _partial_: true, mode: max}",
        "~model.optimizer",
        "+model.optimizer={_target_: torch.optim.SGD, _partial_: true, lr: 0.25}",
    )
    model = assembly.make_model(cfg, assembly.make_datamodule(cfg))
    optimizer = model.optimization.make_optimizer(model.parameters())
    assert isinstance(optimizer, torch.optim.SGD) and optimizer.param_groups[0]["lr"] == 0.25
    assert isinstance(model.optimization.make_scheduler(optimizer), ReduceLROnPlateau)


def test_time_flip_averages_two_views() -> None:
    net = make_net("cnn").eval()
    images = torch.randn(5, *SHAPE)
    model = Classifier(net, SGD, test_time_flip=True).eval()
    torch.testing.assert_close(model(images), (net(images) + net(images.flip(-1))) / 2)
    torch.testing.assert_close(model(images), model(images.flip(-1)))
    torch.testing.assert_close(model.predict_step((images, torch.zeros(5)), 0), model(images).softmax(1))
    assert torch.equal(Classifier(net, SGD).eval()(images), net(images))


def test_compiled_network_keeps_the_keys_and_the_results(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[nn.Module] = []
    compile_module = nn.Module.compile

    def compile_cheaply(self: nn.Module) -> None:
        compiled.append(self)
        compile_module(self, backend="eager")  # traced like any other, without generating code

    monkeypatch.setattr(nn.Module, "compile", compile_cheaply)
    net = make_net("cnn")
    model = Classifier(copy.deepcopy(net), SGD, compile=True)
    assert compiled == [model.net]
    assert list(model.state_dict()) == list(Classifier(net, SGD).state_dict())
    images = torch.randn(5, *SHAPE)
    torch.testing.assert_close(model.eval()(images), net.eval()(images))


@pytest.mark.parametrize(
    ("model", "form"),
    [("mlp", ("2", "1")), ("mlp", ("5", "3")), ("cnn", ("2", "1")), ("cnn", ("5", "3")), ("resnet18", ("5", "3"))],
)
def test_checkpoint_alone_rebuilds_model_and_data(
    compose_config: Callable[..., Any], tmp_path: Path, model: str, form: tuple[str, str]
) -> None:
    num_classes, channels = form
    cfg = compose_config(
        "data=synthetic",
        f"data.num_classes={num_classes}",
        f"data.channels={channels}",
        "data.num_samples=40",
        "data.image_size=9",
        f"model={model}",
    )
    data = assembly.make_datamodule(cfg)
    recipe = assembly.recipe_of(cfg, data)
    made = assembly.make_model(cfg, data, recipe)
    trainer = fit(made, data, max_epochs=1, limit_train_batches=1, callbacks=[CheckpointContents(recipe)])
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    torch.load(tmp_path / "a.ckpt", weights_only=True)  # holds nothing but tensors and plain containers
    rebuilt, rebuilt_data = pipeline.load_run(str(tmp_path / "a.ckpt"))
    images = torch.randn(3, *rebuilt_data.image_shape)
    assert torch.equal(rebuilt.eval()(images), made.eval()(images))
    assert rebuilt_data.class_names == data.class_names and rebuilt_data.image_shape == (int(channels), 9, 9)
    for stage in ("fit", "test"):
        rebuilt_data.setup(stage)
    assert data.train_images is not None and rebuilt_data.train_images is not None
    assert torch.equal(rebuilt_data.train_images.images, data.train_images.images)
    assert torch.equal(rebuilt_data.val_indices, data.val_indices)
