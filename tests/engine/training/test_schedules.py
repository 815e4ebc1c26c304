"""The schedule with a warm-up against its formula, and every option of the groups through a run."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from image_classifier.engine.project import CONFIG_DIR
from image_classifier.engine.training.schedules import cosine_with_warmup


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("final", [0.0, 0.1])
@pytest.mark.parametrize("steps", [1, 7, 40])
def test_rates_rise_and_fall(warmup: float, final: float, steps: int) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    schedule = cosine_with_warmup(optimizer, steps, warmup, final)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    rising = round(warmup * steps)
    for step, rate in enumerate(rates):
        if step < rising:
            assert rate == pytest.approx(2.0 * (step + 1) / (rising + 1))
        else:
            share = (step - rising) / max(1, steps - 1 - rising)
            assert rate == pytest.approx(2.0 * (final + (1 - final) * (1 + math.cos(math.pi * share)) / 2))
    assert max(rates) <= 2.0
    if steps - rising > 1:
        assert rates[-1] == pytest.approx(2.0 * final)


GROUPS = [
    (group, path.stem)
    for group in ("optimizer", "scheduler", "loss")
    for path in sorted(Path(CONFIG_DIR, "model", group).glob("*.yaml"))
]


@pytest.mark.sampled(every=3)
@pytest.mark.parametrize(("group", "option"), GROUPS)
def test_every_option_trains_and_resumes(train: Callable[..., Path], group: str, option: str) -> None:
    chosen = (f"model/{group}={option}", "logger=none", "confusion_matrix=none", "test=false")
    last = train(*chosen) / "checkpoints" / "last.ckpt"
    train(*chosen, f"ckpt_path={last}", "trainer.max_epochs=3")
    content = torch.load(last, weights_only=True)
    assert content["epoch"] == 2
    assert all(value.isfinite().all() for value in content["state_dict"].values())
