"""Images whose mirror image shows something else are mirrored by no combination of data set, network and experiment."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from image_classifier.engine.project import CONFIG_DIR
from tiny import MANDATORY


def options(group: str, *parts: str) -> list[str]:
    return sorted(path.stem for path in Path(CONFIG_DIR, group).glob("*.yaml") if path.stem not in parts)


EXPERIMENTS = [None, *options("experiment")]
MODELS = [None, *options("model", "classifier")]  # None: not chosen
HAS_NO_MIRROR_IMAGE = {"mnist", "kmnist", "synthetic"}


def composed(compose_config: Callable[..., Any], **choices: str | None) -> Any:
    overrides = [f"{group}={option}" for group, option in choices.items() if option is not None]
    if choices["data"] in MANDATORY:
        overrides.append(MANDATORY[choices["data"]])
    return compose_config(*overrides)


@pytest.mark.sampled(every=3)
@pytest.mark.parametrize("experiment", EXPERIMENTS)
@pytest.mark.parametrize("data", sorted(HAS_NO_MIRROR_IMAGE))
def test_what_has_no_mirror_image_is_not_mirrored(
    compose_config: Callable[..., Any], data: str, experiment: str | None
) -> None:
    for model in MODELS:
        cfg = composed(compose_config, data=data, model=model, experiment=experiment)
        assert cfg.data.mirror is False and cfg.model.test_time_flip is False
        # None, or all that makes an Augmentation: an experiment adds to what the data set's file has.
        augmentation = cfg.data.augmentation
        assert augmentation is None or (augmentation._target_.endswith(".Augmentation") and augmentation.flip == 0)


@pytest.mark.parametrize("data", options("data", "in_memory", "pictures"))
def test_every_data_set_says_whether_it_has_mirror_images(compose_config: Callable[..., Any], data: str) -> None:
    assert composed(compose_config, data=data).data.mirror is (data not in HAS_NO_MIRROR_IMAGE)


@pytest.mark.parametrize("experiment", [None, "best_cpu", "best_gpu"])
@pytest.mark.parametrize("data", ["fashion_mnist", "image_folder"])
def test_clothes_and_pictures_are_mirrored_in_training_and_test(
    compose_config: Callable[..., Any], data: str, experiment: str | None
) -> None:
    cfg = composed(compose_config, data=data, experiment=experiment)
    assert cfg.data.augmentation.flip == 0.5 and cfg.model.test_time_flip is True


def test_one_setting_says_that_images_have_no_mirror_image(compose_config: Callable[..., Any]) -> None:
    cfg = compose_config("data.mirror=false", "data.augmentation.flip=0")
    assert cfg.model.test_time_flip is False
