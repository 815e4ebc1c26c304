"""Whatever watches a metric takes for better what is better of that metric."""

from collections.abc import Callable
from typing import Any

import pytest
from omegaconf import OmegaConf

from image_classifier.engine.errors import UserError

CALLBACKS = ("callbacks.model_checkpoint", "callbacks.early_stopping")
MODES = {part: f"{part}.mode" for part in CALLBACKS} | {"model": "model.monitor_mode"}
DIRECTIONS = {"val/acc": "max", "val/loss": "min", "val/macro_f1": "max", "train/loss": "min"}
OWN = "+callbacks.logs={_target_: my_package.LogsScore}"  # so that any name may be logged
STOPPING = "pytorch_lightning.callbacks.EarlyStopping"


def other(mode: str) -> str:
    return {"max": "min", "min": "max"}[mode]


@pytest.mark.parametrize("metric", ["val/acc", "val/loss"])
@pytest.mark.parametrize("name", DIRECTIONS)
@pytest.mark.parametrize("part", MODES)
def test_the_direction_is_that_of_what_is_watched(
    compose_config: Callable[..., Any], part: str, name: str, metric: str
) -> None:
    cfg = compose_config(f"monitor.metric={metric}", f"{part}.monitor={name}", "model/scheduler=plateau")
    for setting in MODES.values():
        watched = name if setting == MODES[part] else metric
        assert OmegaConf.select(cfg, setting) == DIRECTIONS[watched], setting


@pytest.mark.parametrize("mode", ["max", "min"])
@pytest.mark.parametrize("part", MODES)
def test_a_given_direction_counts_where_the_run_s_own_metric_is_watched(
    compose_config: Callable[..., Any], part: str, mode: str
) -> None:
    typed = [OWN, "monitor.metric=val/glory", f"monitor.mode={mode}"]
    cfg = compose_config(*typed)
    assert {OmegaConf.select(cfg, setting) for setting in MODES.values()} == {mode}
    cfg = compose_config(*typed, f"{part}.monitor=val/loss")
    assert OmegaConf.select(cfg, MODES[part]) == "min"
    with pytest.raises(UserError, match=f"^expected {MODES[part]} to be {mode} for val/glory but found {other(mode)}"):
        compose_config(*typed, f"{MODES[part]}={other(mode)}")


@pytest.mark.parametrize("name", ["val/acc", "val/loss"])
@pytest.mark.parametrize("part", MODES)
def test_a_contradiction_is_refused(compose_config: Callable[..., Any], part: str, name: str) -> None:
    known = DIRECTIONS[name]
    refused = f"^expected {MODES[part]} to be {known} for {name} but found {other(known)}; type {MODES[part]}={known}$"
    with pytest.raises(UserError, match=refused):
        compose_config(f"{part}.monitor={name}", f"{MODES[part]}={other(known)}")
    compose_config(f"{part}.monitor={name}", f"{MODES[part]}={known}")


@pytest.mark.parametrize("part", MODES)
def test_a_name_that_does_not_tell_needs_one(compose_config: Callable[..., Any], part: str) -> None:
    typed = [OWN, "model/scheduler=plateau", f"{part}.monitor=val/glory"]
    with pytest.raises(UserError, match=f"^expected {MODES[part]} to be max or min for val/glory.*found none; type "):
        compose_config(*typed)
    cfg = compose_config(*typed, f"{MODES[part]}=min")
    assert OmegaConf.select(cfg, MODES[part]) == "min"


@pytest.mark.parametrize("name", ["val/acc", "val/loss"])
@pytest.mark.parametrize(
    ("target", "default"),
    [
        (STOPPING, "min"),
        ("lightning.pytorch.callbacks.ModelCheckpoint", "min"),
        ("my_package.Watcher", None),  # whose default is not known
    ],
)
@pytest.mark.parametrize("mode", ["max", "min", None])
def test_callbacks_of_yours_are_held_to_it(
    compose_config: Callable[..., Any], target: str, default: str | None, name: str, mode: str | None
) -> None:
    typed = f"+callbacks.mine={{_target_: {target}, monitor: {name}{f', mode: {mode}' if mode else ''}}}"
    if (mode or default) in (None, DIRECTIONS[name]):
        compose_config(typed)
        return
    with pytest.raises(UserError, match=f"callbacks.mine.mode to be {DIRECTIONS[name]} for {name} but found"):
        compose_config(typed)


def test_a_mode_that_means_something_else_is_left_alone(compose_config: Callable[..., Any]) -> None:
    compose_config("+callbacks.mine={_target_: my_package.Watcher, monitor: val/acc, mode: offline}")
    compose_config("callbacks.early_stopping=null", "model.monitor=null", "model.monitor_mode=null")


@pytest.mark.parametrize(
    ("overrides", "fits"),
    [
        ([], True),
        (["monitor.metric=val/loss"], True),
        (["callbacks.pruning.monitor=val/macro_f1"], True),
        (["callbacks.pruning.monitor=val/loss"], False),
        (["objectives={val/loss: min}"], False),
        (["objectives={val/loss: min}", "callbacks.pruning.monitor=val/loss"], True),
        (["objectives={test/acc: max}"], True),
        (["objectives={val/loss: min}", "pruning=none"], True),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_jobs_are_pruned_in_the_direction_of_the_study(
    compose_config: Callable[..., Any], overrides: list[str], fits: bool
) -> None:
    typed = ["sweep=optuna", *([] if "pruning=none" in overrides else ["pruning=median"]), *overrides]
    if fits:
        compose_config(*typed)
        return
    with pytest.raises(UserError, match=r"^expected callbacks.pruning.monitor to be val/\w+, of which .*; type callb"):
        compose_config(*typed)
