"""Wrong settings are told in one line, before torch is imported; right ones pass."""

from collections.abc import Callable
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from image_classifier.engine.errors import UserError
from image_classifier.engine.launch.checks import CHECKS, REQUIRED, check_config

WRONG: dict[str, list[Any]] = {
    "callbacks": [3, [], {"mine": 3}],
    "logger": ["csv", {"mine": "csv"}],
    "objectives": [3, "val/acc", {"val/acc": "up"}],
    "seed": [-1, 2**32, 1.5, "one", True],
    "monitor.metric": [3, True, "acc", "train/loss"],
    "trainer.max_epochs": [0, -2, 1.5, "many", True],
    "trainer.barebones": [True],
    "trainer.val_check_interval": [0, -1, 1.5, True],
    "callbacks.last_checkpoint.every_minutes": [0, -1, "often", True],
    "monitor.mode": ["maximum", "MAX"],
    "data.num_classes": [1, 0, 2.5],
    "data.imbalance": [0.5, -1, "much"],
    "data.val_size": [0, 0.0, 1.0, 1.5, -3, "half"],
    "data.test_size": [0, 0.0, 1.0, "half"],
    "data.in_memory": ["yes", 1.5],
    "data.fit": ["squeeze"],
    "data.image_size": [0, 1.5, "large", True, [8], [8, 8, 8], [0, 8], []],
    "data.channels": [0, 2.5, "grey", True],
    "data.mean": [0.5, "measured", [], ["a"], [-0.1], [True]],
    "data.std": [0.5, "measured", [], [0], [0.0005]],
    "model.init_from": [3, True, ["a.ckpt"]],
    "model.freeze": ["stem", [1], {"stem": True}],
    "model.lr_factors": [0.1, ["stem"], {"stem": -1}, {"stem": "slow"}],
    "metrics": ["top3", ["top3"]],
    "model.optimizer.lr": [0, -0.1, "fast", True],
    "confusion_matrix.normalize": ["rows", 2],
    "confusion_matrix.forms": ["image", ["picture"]],
    "confusion_matrix.stages": ["val", ["train"]],
}


def wrong_values(key: str) -> list[Any]:
    """By what the setting is expected to be, unless it has a list of its own."""
    expected = CHECKS[key].expected
    if key in WRONG:
        return WRONG[key]
    if expected.startswith("a whole number of at least"):
        return [int(expected.split()[-1]) - 1, 1.5, "many", True]
    if expected.startswith("a number of at least"):
        return [float(expected.split()[-1]) - 0.1, "many"]
    if expected == "a number from 0 to 1":
        return [-0.1, 1.1, 2, "often"]
    if expected == "true or false":
        return [1, "yes", 0.0]
    if expected.startswith("a number of batches"):
        return [-1, 1.5, "few"]
    if expected.startswith("one of "):
        return ["another one", 3]
    raise AssertionError(f"add wrong values of {key} to WRONG")


def config_with(key: str, value: Any) -> DictConfig:
    cfg = OmegaConf.create({"ckpt_path": "a.ckpt"})
    if key == "data.fold":
        OmegaConf.update(cfg, "data.folds", 5, force_add=True)
    OmegaConf.update(cfg, key, value, force_add=True)
    return cfg


CASES = [(key, value) for key in CHECKS for value in wrong_values(key)]


@pytest.mark.parametrize(("key", "value"), CASES, ids=[f"{key}={value}" for key, value in CASES])
def test_wrong_value_is_told_in_one_line(key: str, value: Any) -> None:
    wrong = config_with(key, value)
    with pytest.raises(UserError) as caught:
        check_config(wrong)
    message = str(caught.value)
    assert message == (
        f"expected {key} to be {CHECKS[key].expected} but found {OmegaConf.select(wrong, key)!r}; "
        f"for example {key}={CHECKS[key].example}"
    )
    assert "\n" not in message


@pytest.mark.parametrize("key", CHECKS)
def test_the_example_of_a_message_is_accepted_as_typed(key: str) -> None:
    check_config(config_with(key, OmegaConf.from_dotlist([f"typed={CHECKS[key].example}"]).typed))


def test_the_default_configuration_is_accepted(compose_config: Callable[..., DictConfig]) -> None:
    cfg = compose_config()  # checks it
    assert {key for key in CHECKS if OmegaConf.select(cfg, key) is not None} >= {"seed", "data.batch_size"}


@pytest.mark.parametrize("key", CHECKS)
def test_a_setting_that_is_not_there_is_not_missed(key: str) -> None:
    check_config(OmegaConf.create({}))
    group = key.split(".")[0]
    if group not in REQUIRED:
        check_config(OmegaConf.create({"ckpt_path": "a.ckpt", group: None}))


@pytest.mark.parametrize("key", REQUIRED)
@pytest.mark.parametrize("value", [None, ""])
def test_a_setting_that_is_needed_is_told(key: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"expected a value for {key} but found {value!r}"):
        check_config(config_with(key, value))


def test_train_false_needs_a_checkpoint(compose_config: Callable[..., DictConfig]) -> None:
    with pytest.raises(UserError, match=r"train=false but found none; add ckpt_path=FILE"):
        compose_config("data=synthetic", "train=false")
    compose_config("data=synthetic", "train=false", "ckpt_path=a.ckpt")


@pytest.mark.parametrize(
    ("config_name", "overrides", "key"),
    [
        ("train", ["data=image_folder"], "data.root"),
        ("eval", [], "ckpt_path"),
        ("predict", ["ckpt_path=a.ckpt"], "input"),
    ],
)
def test_mandatory_settings_are_asked_for(
    compose_config: Callable[..., DictConfig], config_name: str, overrides: list[str], key: str
) -> None:
    with pytest.raises(UserError, match=f"expected a value for {key} but found none; add {key}=VALUE"):
        compose_config(*overrides, config_name=config_name)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.fold=1"], r"data\.folds because data\.fold=1 but found none; for example data\.folds=5"),
        (
            ["data.folds=3", "data.fold=3"],
            r"from 0 to 2 because data\.folds=3 .*'data\.fold=range\(3\)'",
        ),
    ],
)
def test_folds_that_are_not_there(
    compose_config: Callable[..., DictConfig], overrides: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        compose_config(*overrides)
    compose_config("data.folds=3", "data.fold=2")
