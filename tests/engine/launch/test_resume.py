"""Resuming: what belongs to the run is kept or refused, all else counts from here on, and the best stays the best."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from torch import nn
from torch.optim import lr_scheduler

from image_classifier.engine.errors import UserError
from image_classifier.engine.training.factories import Schedule, Span, make_schedule, refit
from tiny import EVERY_EPOCH, TINY

PLAIN = ("logger=none", "confusion_matrix=none", "callbacks.early_stopping=null", "data.batch_size=16")


def saved(run_dir: Path, name: str = "last") -> dict[str, Any]:
    return torch.load(run_dir / "checkpoints" / f"{name}.ckpt", weights_only=True)


def read_metrics(run_dir: Path) -> dict[str, float]:
    return json.loads((run_dir / "metrics.json").read_text())


def resume(run_dir: Path, tmp_path: Path) -> tuple[str, ...]:
    return (f"ckpt_path='{run_dir}/checkpoints/last.ckpt'", f"paths.run_dir={tmp_path}/resumed")


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("seed=2", "seed=1 as .* but found seed=2"),
        ("data.seed=2", "data.seed=1 as .* but found data.seed=2"),
        ("data.val_size=0.5", "data.val_size=0.25 as .* but found data.val_size=0.5"),
        ("data.num_samples=240", "data.num_samples=200"),
        ("data.num_classes=5", "data.num_classes=4"),
        ("data.imbalance=2", "data.imbalance=1.0"),
        ("data.image_size=9", "data.image_size=8"),
        ("data.channels=3", "data.channels=1"),
        ("data._target_=image_classifier.data.fashion_mnist.TorchvisionMNIST", "data._target_"),
        ("model.net.hidden_sizes=[8]", r"model.net.hidden_sizes=\[16\]"),
        ("model.net._target_=image_classifier.models.cnn.CNN", "model.net._target_"),
        ("model.optimizer._target_=torch.optim.SGD", "model.optimizer._target_=torch.optim.AdamW"),
        ("model.scheduler._target_=torch.optim.lr_scheduler.LinearLR", "model.scheduler._target_"),
        ("monitor.metric=val/loss", "monitor.metric=val/acc"),
        ("trainer.max_epochs=1", "at least 2, the epochs that .* but found 1"),
    ],
)
def test_what_would_make_it_another_run_is_refused(
    train: Callable[..., Path], trained: Callable[..., Path], tmp_path: Path, override: str, told: str
) -> None:
    run_dir = trained(*PLAIN)
    with pytest.raises(UserError, match=told) as caught:
        train(*PLAIN, *resume(run_dir, tmp_path), "trainer.max_epochs=3", override)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "resumed").exists()


@pytest.mark.parametrize(
    "override",
    [
        "data.batch_size=32",
        "data.eval_batch_size=7",
        "data.device=cpu",
        "data.sampling=balanced",
        "data.mix.mixup=0.2",
        "data.augmentation.transforms=[RandomInvert]",
        "model.loss.label_smoothing=0.1",
        "trainer.gradient_clip_val=0.5",
        "trainer.precision=32-true",
    ],
)
def test_what_leaves_images_and_split_alone_may_change(
    train: Callable[..., Path], trained: Callable[..., Path], tmp_path: Path, override: str
) -> None:
    run_dir = trained(*PLAIN)
    assert saved(train(*PLAIN, *resume(run_dir, tmp_path), "trainer.max_epochs=3", override))["epoch"] == 2


def draw_noise(root: Path, seed: int, count: int = 12) -> None:
    random = np.random.default_rng(seed)
    for name in ("a", "b"):
        (root / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            Image.fromarray(random.integers(256, size=(9, 9, 3), dtype=np.uint8)).save(root / name / f"{index}.png")


def add_a_picture(root: Path) -> None:
    Image.new("RGB", (9, 9)).save(root / "a" / "another.png")


def remove_a_picture(root: Path) -> None:
    (root / "b" / "3.png").unlink()


def exchange_the_pictures(root: Path) -> None:
    shutil.rmtree(root)
    draw_noise(root, seed=9)


def rename_a_picture(root: Path) -> None:
    (root / "b" / "3.png").rename(root / "b" / "9999.png")


@pytest.mark.sampled(every=3)
@pytest.mark.parametrize("change", [add_a_picture, remove_a_picture, exchange_the_pictures, rename_a_picture])
@pytest.mark.parametrize("in_memory", ["true", "false"])
def test_other_pictures_in_the_folder_are_noticed(
    train: Callable[..., Path], tmp_path: Path, change: Callable[[Path], None], in_memory: str
) -> None:
    root = tmp_path / "pictures"
    draw_noise(root, seed=1)
    folder = ("data=image_folder", f"data.root={root}", "data.image_size=9", "data.num_workers=0", "test=false")
    without_data = ("logger=none", "confusion_matrix=none", f"data.in_memory={in_memory}")
    overrides = (*folder, *without_data)
    run_dir = train(*overrides)
    change(root)
    with pytest.raises(UserError, match="expected .*(image|picture|split)"):
        train(*overrides, *resume(run_dir, tmp_path), "trainer.max_epochs=3")


@pytest.fixture
def tiny_overrides(request: pytest.FixtureRequest) -> tuple[str, ...]:
    if "other_pictures" in request.node.name:
        return tuple(override for override in TINY if not override.startswith("data"))
    return TINY


class Rates:
    """Learning rates of a schedule stepped from its start."""

    def __init__(self, factory: Any, lr: float, total: Span) -> None:
        self.optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(2))], lr=lr)
        self.schedule = make_schedule(factory, self.optimizer, lambda: total, mode="max")

    def after(self, steps: int) -> float:
        for _ in range(steps):
            self.optimizer.step()
            self.schedule.scheduler.step()
        return self.optimizer.param_groups[0]["lr"]


ONE_CYCLE = partial(lr_scheduler.OneCycleLR, pct_start=0.25, div_factor=10, final_div_factor=1000, cycle_momentum=False)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        # 8 steps an epoch; 2 epochs are done, the third follows what the settings say of it.
        (("trainer.max_epochs=3",), lambda: Rates(ONE_CYCLE, 0.01, Span(24, 8)).after(24)),
        (("trainer.max_epochs=6", "stop=3"), lambda: Rates(ONE_CYCLE, 0.01, Span(48, 8)).after(24)),
        (("trainer.max_epochs=3", "model.optimizer.lr=0.0001"), lambda: Rates(ONE_CYCLE, 1e-4, Span(24, 8)).after(24)),
        (
            ("trainer.max_epochs=3", "model.scheduler.pct_start=0.5"),
            lambda: Rates(partial(ONE_CYCLE, pct_start=0.5), 0.01, Span(24, 8)).after(24),
        ),
        (("trainer.max_epochs=3", "model.optimizer.weight_decay=0.5"), None),
    ],
)
def test_changed_settings_count_from_here_on(
    train: Callable[..., Path], trained: Callable[..., Path], tmp_path: Path, overrides: tuple[str, ...], expected: Any
) -> None:
    run_dir = trained(*PLAIN)
    stop = [override for override in overrides if override.startswith("stop")]
    given = [override for override in overrides if override not in stop]
    if stop:
        given.append("+trainer.max_steps=24")
    checkpoint = saved(train(*PLAIN, *resume(run_dir, tmp_path), *given))
    assert checkpoint["global_step"] == 24
    group = checkpoint["optimizer_states"][0]["param_groups"][0]
    if stop:  # the length is what ends first
        expected = lambda: Rates(ONE_CYCLE, 0.01, Span(24, 8)).after(24)  # noqa: E731
    if expected is not None:
        assert group["lr"] == pytest.approx(expected(), rel=1e-6)
    assert group["weight_decay"] == (0.5 if "model.optimizer.weight_decay=0.5" in overrides else 0.01)
    assert checkpoint["optimizer_states"][0]["state"][0]["step"] == 24  # the state went on


@pytest.mark.parametrize(("epochs", "length"), [(3, 3), (5, 5)])
def test_cosine_follows_the_new_length(train: Callable[..., Path], tmp_path: Path, epochs: int, length: int) -> None:
    cosine = (
        "~model.scheduler",
        "+model.scheduler={_target_: torch.optim.lr_scheduler.CosineAnnealingLR, _partial_: true}",
    )
    run_dir = train(*PLAIN, *cosine)
    checkpoint = saved(train(*PLAIN, *cosine, *resume(run_dir, tmp_path), f"trainer.max_epochs={epochs}"))
    assert checkpoint["lr_schedulers"][0]["T_max"] == length
    assert checkpoint["optimizer_states"][0]["param_groups"][0]["lr"] == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(
    "factory",
    [
        ONE_CYCLE,
        partial(lr_scheduler.StepLR, step_size=2, gamma=0.3),
        partial(lr_scheduler.CosineAnnealingWarmRestarts, T_0=3),
        partial(lr_scheduler.CyclicLR, base_lr=1e-4, step_size_up=3, cycle_momentum=False),
        partial(lr_scheduler.MultiStepLR, milestones=[2, 5]),
        partial(lr_scheduler.PolynomialLR, total_iters=9),
    ],
)
def test_a_replayed_schedule_is_where_a_stepped_one_is(factory: Any) -> None:
    total = Span(12, 1)
    reference = Rates(factory, 0.02, total)
    expected = reference.after(7)
    other = Rates(factory, 0.5, total)  # what the checkpoint had
    other.after(7)

    def make(optimizer: torch.optim.Optimizer) -> Schedule:
        return make_schedule(factory, optimizer, lambda: total, mode="max")

    fresh = torch.optim.AdamW([nn.Parameter(torch.zeros(2))], lr=0.02)
    refit(other.optimizer, fresh, make, other.schedule.scheduler, lambda _: 7, keep_reductions=False)
    assert other.optimizer.param_groups[0]["lr"] == expected


@pytest.mark.parametrize("shortcuts", [True, False])
@pytest.mark.parametrize("validation", ["limit_val_batches=1.0", "limit_val_batches=0", "check_val_every_n_epoch=2"])
def test_a_number_of_steps_is_reached_as_if_it_had_never_stopped(
    train: Callable[..., Path], tmp_path: Path, validation: str, shortcuts: bool
) -> None:
    """From the end of an epoch of 8 steps; the batches come in the order that they would have had."""
    same = (*PLAIN, "model/scheduler=none", f"++trainer.{validation}", f"shortcuts={shortcuts}", "test=false")
    steps = ("trainer.max_epochs=-1", "+trainer.max_steps=28")
    straight = train(*same, *steps, f"paths.run_dir={tmp_path}/straight")
    first = train(*same, "trainer.max_epochs=1")
    both = train(*same, *steps, *resume(first, tmp_path))
    one, other = saved(straight), saved(both)
    assert one["global_step"] == other["global_step"] == 28 and one["epoch"] == other["epoch"]
    for name, weight in one["state_dict"].items():
        assert torch.equal(weight, other["state_dict"][name]), name
    one, other = read_metrics(straight), read_metrics(both)
    assert {key: one[key] for key in one if "/" in key} == {key: other[key] for key in other if "/" in key}


PLATEAU = (
    "~model.scheduler",
    "+model.scheduler={_target_: torch.optim.lr_scheduler.ReduceLROnPlateau, _partial_: true, "
    "threshold: 10.0, patience: 1, factor: 0.1}",
)


@pytest.mark.parametrize("metric", ["val/acc", "val/loss"])
def test_plateau_goes_on_as_if_it_had_never_stopped(train: Callable[..., Path], tmp_path: Path, metric: str) -> None:
    straight = train(
        *PLAIN, *PLATEAU, "trainer.max_epochs=5", f"monitor.metric={metric}", f"paths.run_dir={tmp_path}/one"
    )
    part = train(*PLAIN, *PLATEAU, "trainer.max_epochs=3", f"monitor.metric={metric}")
    both = train(*PLAIN, *PLATEAU, "trainer.max_epochs=5", f"monitor.metric={metric}", *resume(part, tmp_path))
    one, other = saved(straight), saved(both)
    assert one["lr_schedulers"] == other["lr_schedulers"]
    assert one["optimizer_states"][0]["param_groups"] == other["optimizer_states"][0]["param_groups"]
    for name, weight in one["state_dict"].items():
        assert torch.equal(weight, other["state_dict"][name]), name


def test_a_finished_run_is_tested_again_and_its_best_kept(train: Callable[..., Path], tmp_path: Path) -> None:
    first = train(*PLAIN, "trainer.max_epochs=4")
    again = train(*PLAIN, "trainer.max_epochs=4", *resume(first, tmp_path))
    one, other = read_metrics(first), read_metrics(again)
    assert {key: one[key] for key in one if key[:4] in ("val/", "test")} == {
        key: other[key] for key in other if key[:4] in ("val/", "test")
    }
    assert (again / "confusion_matrix" / "val.csv").read_text() == (first / "confusion_matrix" / "val.csv").read_text()


def best_epoch(run_dir: Path) -> int:
    return saved(run_dir, "best")["epoch"]


# Learns in the first epochs, then loses it all: the best lies before the resume.
SPOILT = ("trainer.max_epochs=4", "model.optimizer.lr=0.02")
SPOILING = ("trainer.max_epochs=6", "model.optimizer.lr=30.0")


def in_the_same_directory(run_dir: Path, tmp_path: Path) -> tuple[str, ...]:
    return (f"ckpt_path={run_dir}/checkpoints/last.ckpt", f"paths.run_dir={run_dir}")


def in_a_new_directory(run_dir: Path, tmp_path: Path) -> tuple[str, ...]:
    return resume(run_dir, tmp_path)


def in_a_copy(run_dir: Path, tmp_path: Path) -> tuple[str, ...]:
    shutil.copytree(run_dir, tmp_path / "copy")
    return (f"ckpt_path={tmp_path}/copy/checkpoints/last.ckpt", f"paths.run_dir={tmp_path}/copy")


def in_a_moved_directory(run_dir: Path, tmp_path: Path) -> tuple[str, ...]:
    run_dir.rename(tmp_path / "moved")
    return (f"ckpt_path={tmp_path}/moved/checkpoints/last.ckpt", f"paths.run_dir={tmp_path}/moved")


def from_a_moved_directory_in_a_new_one(run_dir: Path, tmp_path: Path) -> tuple[str, ...]:
    run_dir.rename(tmp_path / "moved")
    return resume(tmp_path / "moved", tmp_path)


PLACES = (
    in_the_same_directory,
    in_a_new_directory,
    in_a_copy,
    in_a_moved_directory,
    from_a_moved_directory_in_a_new_one,
)


@pytest.mark.sampled(every=5)
@pytest.mark.parametrize(
    ("place", "top_k", "metric"),
    [
        (place, top_k, metric)
        for place in PLACES
        for top_k in (1, 2, -1)
        for metric in ("val/acc", "val/loss")
        if metric == "val/acc" or top_k == 1
    ],
)
def test_the_earlier_best_stays_the_best_wherever_the_run_goes_on(
    train: Callable[..., Path], tmp_path: Path, place: Callable[..., tuple[str, ...]], top_k: int, metric: str
) -> None:
    settings = (*PLAIN, f"callbacks.model_checkpoint.save_top_k={top_k}", f"monitor.metric={metric}")
    run_dir = train(*settings, *SPOILT)
    figures, matrix = read_metrics(run_dir), (run_dir / "confusion_matrix" / "val.csv").read_text()
    best = saved(run_dir, "best")
    resumed = train(*settings, *SPOILING, *place(run_dir, tmp_path))
    after = saved(resumed, "best")
    assert after["epoch"] == best["epoch"] < 4 and after["metrics"] == best["metrics"]
    for name, weight in best["state_dict"].items():
        assert torch.equal(weight, after["state_dict"][name])
    final = read_metrics(resumed)
    assert final[metric] == figures[metric] and final["test/acc"] == figures["test/acc"] and final["epochs"] == 6
    assert (resumed / "confusion_matrix" / "val.csv").read_text() == matrix
    assert saved(resumed)["epoch"] == 5


def test_a_best_of_another_course_is_set_aside_not_lost(train: Callable[..., Path], tmp_path: Path) -> None:
    run_dir = train(*PLAIN, *SPOILT, EVERY_EPOCH)
    best = saved(run_dir, "best")
    assert best["epoch"] >= 1
    # From before that best, and into the same directory.
    train(*PLAIN, *SPOILING, EVERY_EPOCH, f"ckpt_path={run_dir}/checkpoints/epoch_0.ckpt", f"paths.run_dir={run_dir}")
    (aside,) = (run_dir / "checkpoints").glob("best_before_resume_*.ckpt")
    assert torch.load(aside, weights_only=True)["metrics"] == best["metrics"]


def test_an_earlier_best_that_is_gone_is_told(
    train: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = train(*PLAIN, *SPOILT)
    (run_dir / "checkpoints" / "best.ckpt").unlink()
    resumed = train(*PLAIN, "trainer.max_epochs=6", *resume(run_dir, tmp_path))
    assert "Earlier checkpoints are gone (best.ckpt): the best is chosen from here on" in capsys.readouterr().out
    assert best_epoch(resumed) >= 4


@pytest.mark.parametrize(
    "override",
    [
        "seed=5",
        "data.val_size=0.5",
        "data.num_samples=40",
        "model.loss.label_smoothing=0.2",
        "model.net.hidden_sizes=[3]",
    ],
)
def test_train_false_records_what_it_tested(
    train: Callable[..., Path], trained: Callable[..., Path], tmp_path: Path, override: str
) -> None:
    run_dir = trained(*PLAIN)
    tested = train(*PLAIN, *resume(run_dir, tmp_path), "train=false", override)
    first, second = ((path / "config.yaml").read_text() for path in (run_dir, tested))
    one, other = OmegaConf.create(first), OmegaConf.create(second)
    assert other.data == one.data and other.model == one.model and other.seed == one.seed
    assert read_metrics(tested)["test/acc"] == read_metrics(run_dir)["test/acc"]
