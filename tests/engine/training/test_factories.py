"""Every optimizer and every scheduler of torch, named by `_target_` alone, against the same made by hand."""

import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.scheduler import CosineLRScheduler
from torch import nn
from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from image_classifier.engine.errors import UserError
from image_classifier.engine.training.factories import Span, make_optimizer, make_schedule

QUIET = ("logger=none", "confusion_matrix=none", "test=false", "callbacks.most_confused=null")
OPTIMIZERS = sorted(
    name
    for name, value in vars(torch.optim).items()
    if inspect.isclass(value) and issubclass(value, Optimizer) and value is not Optimizer
)
REFUSED = {"SparseAdam": "dense gradients", "Muon": "2D"}  # these weights are not for them
FUSED = ("Adagrad", "Adam", "AdamW", "SGD")  # which Lightning does not clip under mixed precision
CASES = [(name, "1.0", "bf16-mixed") for name in OPTIMIZERS] + [
    (name, *case) for name in FUSED for case in (("1.0", "32-true"), ("null", "bf16-mixed"))
]


@pytest.mark.sampled(every=3)
@pytest.mark.parametrize(("name", "clip", "precision"), CASES)
def test_every_optimizer_trains_or_is_refused_in_a_line(
    train: Callable[..., Path], name: str, clip: str, precision: str
) -> None:
    overrides = (
        *QUIET,
        f"model.optimizer._target_=torch.optim.{name}",
        f"trainer.gradient_clip_val={clip}",
        f"trainer.precision={precision}",
        "trainer.limit_train_batches=2",
        "data.batch_size=32",
        "trainer.max_epochs=1",
        "model.optimizer.lr=0.01",
    )
    if name in REFUSED:
        with pytest.raises(UserError, match=f"model.optimizer.*{REFUSED[name]}"):
            train(*overrides)
        return
    checkpoint = torch.load(train(*overrides) / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 2
    assert all(weight.isfinite().all() for weight in checkpoint["state_dict"].values())


# What has no default, as a user would write it.
SCHEDULERS: dict[str, str] = {
    "StepLR": "step_size: 1",
    "MultiStepLR": "milestones: [1]",
    "CyclicLR": "base_lr: 0.001",
    "SWALR": "swa_lr: 0.001",
    "LambdaLR": "lr_lambda",  # a function of the epoch is written in Python: tested below
    "MultiplicativeLR": "lr_lambda",
    "CosineAnnealingWarmRestarts": "T_0: 1",
    "SequentialLR": (
        "milestones: [1], schedulers: [{_target_: torch.optim.lr_scheduler.ConstantLR, _partial_: true}, "
        "{_target_: torch.optim.lr_scheduler.ExponentialLR, _partial_: true, gamma: 0.5}]"
    ),
    "ChainedScheduler": (
        "schedulers: [{_target_: torch.optim.lr_scheduler.ConstantLR, _partial_: true}, "
        "{_target_: torch.optim.lr_scheduler.ExponentialLR, _partial_: true, gamma: 0.5}]"
    ),
    "ExponentialLR": "gamma: 0.5",
}
NAMES = sorted(
    name
    for name, value in vars(lr_scheduler).items()
    if inspect.isclass(value) and issubclass(value, LRScheduler) and value is not LRScheduler and name[0] != "_"
)


@pytest.mark.sampled(every=3)
@pytest.mark.parametrize("name", [name for name in NAMES if "lr_lambda" not in SCHEDULERS.get(name, "")])
def test_every_scheduler_is_made_from_its_name(train: Callable[..., Path], name: str) -> None:
    settings = f"_target_: torch.optim.lr_scheduler.{name}, _partial_: true"
    given = f", {SCHEDULERS[name]}" if name in SCHEDULERS else ""
    optimizer = ("model.optimizer._target_=torch.optim.SGD", "+model.optimizer.momentum=0.9")
    scheduler = ("~model.scheduler", f"+model.scheduler={{{settings}{given}}}")
    run_dir = train(*QUIET, *optimizer, *scheduler, "trainer.max_epochs=3")
    checkpoint = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)
    state = checkpoint["lr_schedulers"][0]
    stepwise = name in ("OneCycleLR", "CyclicLR")
    if name != "ChainedScheduler":  # which counts in its parts
        assert state["last_epoch"] == (checkpoint["global_step"] if stepwise else 3 - (name == "ReduceLROnPlateau"))


@pytest.mark.sampled(every=3)
@pytest.mark.parametrize("name", NAMES)
def test_changing_the_class_alone_leaves_out_what_belonged_to_the_other(
    train: Callable[..., Path], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    needs = SCHEDULERS.get(name)
    overrides = (*QUIET, f"model.scheduler._target_=torch.optim.lr_scheduler.{name}", "trainer.max_epochs=1")
    if needs is not None or name == "ChainedScheduler":
        with pytest.raises(UserError, match=r"expected model.scheduler to hold what \w+ takes .* missing"):
            train(*overrides)
    else:
        train(*overrides)
    if name != "OneCycleLR":
        assert f"torch.optim.lr_scheduler.{name} has no pct_start" in capsys.readouterr().out


def optimizer_of(lr: float = 0.1) -> torch.optim.SGD:
    return torch.optim.SGD([nn.Parameter(torch.zeros(2))], lr=lr, momentum=0.9)


def span() -> Span:
    return Span(12, 4)


def rates(scheduler: Any, steps: int) -> list[float]:
    found = []
    for _ in range(steps):
        found.append(scheduler.optimizer.param_groups[0]["lr"])
        scheduler.optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize(
    ("factory", "reference"),
    [
        (partial(lr_scheduler.OneCycleLR), partial(lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=12)),
        (
            partial(lr_scheduler.OneCycleLR, max_lr=0.5, epochs=4, steps_per_epoch=5),
            partial(lr_scheduler.OneCycleLR, max_lr=0.5, epochs=4, steps_per_epoch=5),
        ),
        (partial(lr_scheduler.OneCycleLR, epochs=6), partial(lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=24)),
        (
            partial(lr_scheduler.OneCycleLR, steps_per_epoch=8),
            partial(lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=24),
        ),
        (partial(lr_scheduler.CosineAnnealingLR), partial(lr_scheduler.CosineAnnealingLR, T_max=3)),
        (partial(lr_scheduler.CosineAnnealingLR, T_max=7), partial(lr_scheduler.CosineAnnealingLR, T_max=7)),
        (
            partial(lr_scheduler.CyclicLR, base_lr=0.01),
            partial(lr_scheduler.CyclicLR, base_lr=0.01, max_lr=0.1),
        ),
        (
            partial(
                lr_scheduler.SequentialLR,
                schedulers=[partial(lr_scheduler.ConstantLR), partial(lr_scheduler.ExponentialLR, gamma=0.5)],
                milestones=[2],
            ),
            lambda optimizer: lr_scheduler.SequentialLR(
                optimizer,
                [lr_scheduler.ConstantLR(optimizer), lr_scheduler.ExponentialLR(optimizer, gamma=0.5)],
                milestones=[2],
            ),
        ),
        (
            partial(lr_scheduler.LambdaLR, lr_lambda=lambda epoch: 1 / (1 + epoch)),
            partial(lr_scheduler.LambdaLR, lr_lambda=lambda epoch: 1 / (1 + epoch)),
        ),
        (
            partial(lr_scheduler.MultiplicativeLR, lr_lambda=lambda epoch: 0.5),
            partial(lr_scheduler.MultiplicativeLR, lr_lambda=lambda epoch: 0.5),
        ),
    ],
)
def test_rates_are_those_of_the_scheduler_made_by_hand(factory: Any, reference: Any) -> None:
    schedule = make_schedule(factory, optimizer_of(), span, mode="max")
    assert rates(schedule.scheduler, 10) == rates(reference(optimizer_of()), 10)


@pytest.mark.parametrize(
    ("interval", "frequency", "length"), [("step", 1, 12), ("step", 4, 3), ("epoch", 1, 3), (None, 1, 3)]
)
def test_interval_and_frequency_count_in_the_length(interval: str | None, frequency: int, length: int) -> None:
    schedule = make_schedule(
        lr_scheduler.CosineAnnealingLR, optimizer_of(), span, mode="max", interval=interval, frequency=frequency
    )
    assert schedule.scheduler.T_max == length
    assert (schedule.interval, schedule.frequency) == (interval or "epoch", frequency)


@pytest.mark.parametrize(
    ("mode", "given", "expected"), [("max", None, "max"), ("min", None, "min"), (None, "max", "max")]
)
def test_a_plateau_is_one_of_the_monitored_metric(mode: str | None, given: str | None, expected: str) -> None:
    factory = partial(ReduceLROnPlateau, **({"mode": given} if given else {}))
    assert make_schedule(factory, optimizer_of(), span, mode=mode).scheduler.mode == expected


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (partial(ReduceLROnPlateau, mode="min"), r"mode=max, .* but found min"),
        (partial(lr_scheduler.OneCycleLR, total_steps=11), r"last for the 12 steps .* but found 11"),
        (partial(lr_scheduler.OneCycleLR, epochs=2, steps_per_epoch=4), r"last for the 12 steps .* but found 8"),
        (partial(CosineLRScheduler, t_initial=2), r"without arguments, .* CosineLRScheduler, whose step takes epoch"),
        (partial(lr_scheduler.StepLR), r"model.scheduler .* StepLR .* missing .*step_size"),
        (partial(lr_scheduler.StepLR, step_size=1, depth=3), r"model.scheduler .* StepLR .* 'depth'"),
    ],
)
def test_what_cannot_be_is_told(factory: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_schedule(factory, optimizer_of(), span, mode="max")


def test_a_training_without_an_end_has_no_length() -> None:
    endless = partial(Span, float("inf"), 4)
    with pytest.raises(UserError, match=r"training of known length for OneCycleLR"):
        make_schedule(lr_scheduler.OneCycleLR, optimizer_of(), endless, mode="max")
    make_schedule(partial(lr_scheduler.StepLR, step_size=1), optimizer_of(), endless, mode="max")  # needs none


@pytest.mark.parametrize("given", [{}, {"foreach": True}, {"fused": False}, {"differentiable": True}])
@pytest.mark.parametrize("fused", [True, False])
def test_one_kernel_where_the_optimizer_has_one_and_nothing_forbids_it(given: dict[str, bool], fused: bool) -> None:
    optimizer = make_optimizer(partial(torch.optim.AdamW, **given), [nn.Parameter(torch.zeros(2))], fused=fused)
    assert bool(optimizer.param_groups[0]["fused"]) == (fused and not given)
    make_optimizer(torch.optim.Rprop, [nn.Parameter(torch.zeros(2))], fused=True)  # has none
