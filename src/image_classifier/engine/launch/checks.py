"""Checks of the composed configuration, made before torch is imported: one line says what to type instead."""

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError

from image_classifier.engine.errors import UserError
from image_classifier.engine.launch.directions import check_goals, check_watchers  # registers resolvers
from image_classifier.engine.launch.monitored import check_monitored
from image_classifier.engine.launch.signatures import check_signatures
from image_classifier.engine.settings import value_at

PRECISIONS = (
    *("auto", "32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true"),
    *("32", "64", "bf16", "16", 16, 32, 64, "transformer-engine", "transformer-engine-float16"),
)
PATHS = (
    "data.root",
    "data.cache",
    "ckpt_path",
    "model.init_from",
    "input",
    "output",
    "paths.root_dir",
    "paths.data_dir",
    "paths.output_dir",
)


Settings = Mapping[str, Any]  # resolved, in plain containers
MADE_OF_SETTINGS = ("data", "model", "callbacks", "confusion_matrix", "logger", "trainer")


class Check(NamedTuple):
    """What a setting must be."""

    accepts: Callable[[Any], bool]
    expected: str  # in words
    example: Any


def is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    return is_whole(value) or isinstance(value, float)


def is_image_size(value: Any) -> bool:
    sides = value if isinstance(value, list) and len(value) == 2 else [value]
    return all(is_whole(side) and side >= 1 for side in sides)


def statistics(minimum: float, example: str) -> Check:
    """Of the pixels: a number a channel, or auto."""
    return Check(
        lambda value: (
            value == "auto"
            or (isinstance(value, list) and len(value) > 0 and all(is_number(v) and v >= minimum for v in value))
        ),
        f"auto, or a list of numbers of at least {minimum:g}, one a channel",
        example,
    )


COUNT_OR_SHARE = "a number of images of at least 1, or a fraction between 0.0 and 1.0"


def is_count_or_share(value: Any) -> bool:
    return (is_whole(value) and value >= 1) or (isinstance(value, float) and 0 < value < 1)


def whole(minimum: int, example: int) -> Check:
    return Check(lambda value: is_whole(value) and value >= minimum, f"a whole number of at least {minimum}", example)


def at_least(minimum: float, example: float) -> Check:
    return Check(lambda value: is_number(value) and value >= minimum, f"a number of at least {minimum:g}", example)


def fraction(example: float) -> Check:
    return Check(lambda value: is_number(value) and 0 <= value <= 1, "a number from 0 to 1", example)


def limit() -> Check:
    return Check(
        lambda value: (is_whole(value) and value >= 0) or (is_number(value) and 0 <= value <= 1),
        "a number of batches, or a fraction from 0.0 to 1.0",
        0.1,
    )


def one_of(*choices: str) -> Check:
    return Check(lambda value: value in choices, f"one of {', '.join(choices)}", choices[0])


def some_of(*choices: str) -> Check:
    return Check(
        lambda value: isinstance(value, list) and all(item in choices for item in value),
        f"a list of any of {', '.join(choices)}",
        f"[{choices[0]}]",
    )


def normalization() -> Check:
    modes = ("none", "true", True, "pred", "all")  # YAML reads true as a boolean
    return Check(
        lambda value: (
            value in modes or (isinstance(value, list) and value != [] and all(mode in modes for mode in value))
        ),
        "one of none, true, pred, all, or a list of them",
        "[none,true]",
    )


def switch() -> Check:
    return Check(lambda value: isinstance(value, bool), "true or false", "true")


def parts() -> Check:
    """Of a group whose options can be combined."""
    return Check(
        lambda value: (
            isinstance(value, dict) and all(part is None or isinstance(part, dict) for part in value.values())
        ),
        "names with what each is made of, or null",
        "{mine: {_target_: my_package.Mine}}",
    )


CHECKS: dict[str, Check] = {
    "seed": Check(lambda value: is_whole(value) and 0 <= value < 2**32, "a whole number from 0 to 4294967295", 1),
    "top_k": whole(1, 3),
    "batch_size": whole(1, 256),
    "decode_threads": whole(1, 4),
    "check_images": whole(1, 256),
    "train": switch(),
    "test": switch(),
    "monitor.metric": Check(
        lambda value: isinstance(value, str) and value.startswith("val/"), "the key of a validation metric", "val/acc"
    ),
    "monitor.mode": one_of("max", "min"),
    "data.batch_size": whole(1, 128),
    "data.eval_batch_size": whole(1, 1000),
    "data.num_classes": whole(2, 10),
    "data.num_samples": whole(5, 2000),
    "data.image_size": Check(is_image_size, "height and width in pixels, as one number or [height,width]", 28),
    "data.channels": Check(
        lambda value: value == "auto" or (is_whole(value) and value >= 1), "a whole number of at least 1, or auto", 1
    ),
    "data.mean": statistics(0, "[0.5]"),
    "data.std": statistics(0.001, "[0.25]"),
    "data.on_error": one_of("raise", "skip"),
    "data.num_workers": whole(0, 2),
    "data.imbalance": at_least(1, 10),
    "data.val_size": Check(is_count_or_share, COUNT_OR_SHARE, 0.1),
    "data.test_size": Check(is_count_or_share, COUNT_OR_SHARE, 0.2),
    "data.folds": whole(2, 5),
    "data.fold": whole(0, 0),
    "data.in_memory": Check(lambda value: value == "auto" or isinstance(value, bool), "true, false or auto", "auto"),
    "data.fit": one_of("crop", "pad", "stretch"),
    "data.background": one_of("white", "black", "mean"),
    "data.mirror": switch(),
    "data.sampling": one_of("shuffle", "balanced"),
    "data.mix.mixup": at_least(0, 0.2),
    "data.mix.cutmix": at_least(0, 1.0),
    "data.augmentation.flip": fraction(0.5),
    "data.augmentation.shift": whole(0, 2),
    "data.augmentation.erase": fraction(0.25),
    "data.augmentation.erase_size": whole(1, 8),
    "model.optimizer.lr": Check(lambda value: is_number(value) and value > 0, "a number above 0", 0.001),
    "model.optimizer.weight_decay": at_least(0, 0.01),
    "model.scheduler_interval": one_of("step", "epoch"),
    "model.scheduler_frequency": whole(1, 1),
    "model.loss.label_smoothing": fraction(0.1),
    "model.loss.gamma": at_least(0, 2),
    "model.init_from": Check(lambda value: isinstance(value, str), "the path of a checkpoint", "last.ckpt"),
    "model.freeze": Check(
        lambda value: isinstance(value, list) and all(isinstance(item, str) for item in value),
        "a list of patterns of parameter names",
        "[stem]",
    ),
    "model.lr_factors": Check(
        lambda value: isinstance(value, dict) and all(is_number(factor) and factor >= 0 for factor in value.values()),
        "patterns of parameter names with factors of at least 0",
        "{stem: 0.1}",
    ),
    "model.decay_biases_and_norms": switch(),
    "shortcuts": switch(),
    "metrics": Check(
        lambda value: isinstance(value, dict) and all(isinstance(metric, dict) for metric in value.values()),
        "names with what each is made of",
        "{}",
    ),
    "callbacks": parts(),
    "logger": parts(),
    "objectives": Check(
        lambda value: isinstance(value, dict) and all(mode in ("max", "min") for mode in value.values()),
        "metrics with max or min each",
        "{val/acc: max}",
    ),
    "model.compile": switch(),
    "model.channels_last": switch(),
    "model.test_time_flip": switch(),
    "model.ignore_index": whole(-100, -100),
    "confusion_matrix.forms": some_of("image", "scalar", "table", "chart"),
    "confusion_matrix.stages": some_of("val", "test"),
    "confusion_matrix.normalize": normalization(),
    "confusion_matrix.max_cells": whole(0, 2500),
    "confusion_matrix.top_confusions": whole(0, 50),
    "confusion_matrix.every_n_epochs": whole(1, 5),
    "trainer.max_epochs": Check(
        lambda value: is_whole(value) and (value >= 1 or value == -1),
        "a whole number of at least 1, or -1 with trainer.max_steps or trainer.max_time",
        10,
    ),
    "trainer.precision": Check(lambda value: value in PRECISIONS, f"one of {', '.join(PRECISIONS[:7])}", "32-true"),
    "trainer.barebones": Check(
        lambda value: value is False, "false, for without metrics there is no best checkpoint", "false"
    ),
    "trainer.log_every_n_steps": whole(1, 50),
    "trainer.gradient_clip_val": at_least(0, 1.0),
    "trainer.gradient_clip_algorithm": one_of("norm", "value"),
    "trainer.accumulate_grad_batches": whole(1, 2),
    "trainer.num_sanity_val_steps": whole(-1, 2),
    "trainer.check_val_every_n_epoch": whole(1, 1),
    "trainer.val_check_interval": Check(
        lambda value: (
            isinstance(value, str) or (is_whole(value) and value >= 1) or (is_number(value) and 0 < value <= 1)
        ),
        "a number of batches of at least 1, a fraction of an epoch from 0.0 to 1.0, or a time",
        0.5,
    ),
    "callbacks.early_stopping.patience": whole(0, 5),
    "callbacks.model_checkpoint.save_top_k": whole(-1, 1),
    "callbacks.last_checkpoint.every_minutes": Check(
        lambda value: is_number(value) and value > 0, "a number of minutes above 0, or null", 5
    ),
    "callbacks.last_checkpoint.every_n_steps": whole(1, 1000),
    "trainer.limit_train_batches": limit(),
    "trainer.limit_val_batches": limit(),
    "trainer.limit_test_batches": limit(),
}


# Settings that a command cannot do without, where it has them.
REQUIRED = (
    *("seed", "data", "model", "trainer", "model.net", "model.net._target_", "model.optimizer", "data._target_"),
    *("trainer.accelerator", "trainer.devices", "trainer.max_epochs", "model.optimizer._target_", "data.batch_size"),
    *("data.num_classes", "data.num_samples", "data.image_size", "monitor.metric", "batch_size", "top_k"),
    *("check_images",),
)
OF_A_CHECKPOINT = ("evaluate", "eval", "predict", "export")  # commands that need one, and an output


def required_is_there(value: Any) -> bool:
    return value is not None and value != ""


def check_config(cfg: DictConfig, *, whole: bool = False) -> None:
    """Check those settings that are there; which ones are depends on the chosen groups.

    Args:
        cfg: The configuration.
        whole: Everything must be there that it interpolates: true where Hydra runs.

    Raises:
        UserError: A mandatory setting is missing, or one has a wrong type or is out of range.
    """
    if missing := missing_keys(OmegaConf.to_container(cfg)):
        key = min(missing)
        raise UserError(f"expected a value for {key} but found none; add {key}=VALUE")
    settings, unresolved = plain_settings(cfg)
    check_settings(settings)
    if whole and unresolved is not None:
        reason = str(unresolved).splitlines()[0]
        raise UserError(f"expected what ${{}} names in {unresolved.full_key} to be there but found: {reason}")


def missing_keys(node: Any, path: str = "") -> list[str]:
    """The dotted keys of mandatory settings without a value, as `OmegaConf.missing_keys`, which resolves them all."""
    if isinstance(node, dict | list):
        parts = node.items() if isinstance(node, dict) else enumerate(node)
        return [key for name, part in parts for key in missing_keys(part, f"{path}.{name}" if path else str(name))]
    return [path] if node == "???" else []


def plain_settings(cfg: DictConfig) -> tuple[Settings, InterpolationResolutionError | None]:
    """The resolved settings in plain containers, which are read many times, and the error for those that are left out.

    They are left out because they can be resolved only inside of Hydra, or because they name what is not there.
    """
    try:
        return OmegaConf.to_container(cfg, resolve=True), None  # type: ignore[return-value]
    except InterpolationResolutionError as error:
        return resolved(cfg), error


def check_settings(settings: Settings) -> None:
    for key in REQUIRED:
        parent, _, name = key.rpartition(".")
        holder = value_at(settings, parent) if parent else settings
        if isinstance(holder, dict) and name in holder and not required_is_there(holder[name]):
            raise UserError(f"expected a value for {key} but found {holder[name]!r}; leave {key} out, or give it one")
    for key, check in CHECKS.items():
        value = value_at(settings, key)
        if value is not None and not check.accepts(value):
            raise UserError(
                f"expected {key} to be {check.expected} but found {value!r}; for example {key}={check.example}"
            )
    check_what_a_checkpoint_is_for(settings)
    for part in MADE_OF_SETTINGS:
        if settings.get(part) is not None:
            check_signatures(settings[part], part)
    check_together(settings)
    check_monitored(settings)
    check_watchers(settings)


def check_what_a_checkpoint_is_for(settings: Settings) -> None:
    """Which checkpoint, and of which pictures to where."""
    command, checkpoint = settings.get("command"), settings.get("ckpt_path")
    if command in OF_A_CHECKPOINT and not required_is_there(checkpoint):
        raise UserError(f"expected ckpt_path to be a checkpoint but found {checkpoint!r}; add ckpt_path=FILE")
    if not settings.get("train", True) and checkpoint is None:
        raise UserError("expected a checkpoint to test because train=false but found none; add ckpt_path=FILE")
    if command != "predict":
        return
    for key, example in (("input", "PICTURES"), ("output", "predictions.csv")):
        if not required_is_there(settings.get(key)):
            raise UserError(f"expected {key} to be a path but found {settings.get(key)!r}; for example {key}={example}")
    check_whole_prediction(settings["trainer"])


def check_whole_prediction(trainer: Settings) -> None:
    """Refuse what would leave pictures out of a prediction."""
    for key, whole in (("limit_predict_batches", 1.0), ("fast_dev_run", False)):
        value = trainer.get(key)
        if value is not None and (type(value), value) != (type(whole), whole):
            raise UserError(
                f"expected a prediction of all pictures but found trainer.{key}={value}; leave it out and name fewer "
                "pictures: input=PICTURES"
            )


def resolved(node: Any) -> Any:
    """A part of the configuration in plain containers, without what can be resolved only inside of Hydra."""
    if OmegaConf.is_list(node):
        return OmegaConf.to_container(node, resolve=True)
    if not OmegaConf.is_dict(node):
        return node
    found = {}
    for key in node:
        with contextlib.suppress(InterpolationResolutionError):
            found[key] = resolved(node[key])
    return found


def check_together(settings: Settings) -> None:
    """Settings that contradict each other.

    Raises:
        UserError: Two of them do.
    """
    check_goals(settings)
    trainer = settings.get("trainer") or {}
    if trainer.get("max_epochs") == -1 and trainer.get("max_steps", -1) in (-1, None) and not trainer.get("max_time"):
        raise UserError(
            "expected an end of the training besides trainer.max_epochs=-1 but found none; add +trainer.max_steps=1000"
        )
    check_mix(settings)
    check_folds(settings)
    flips = [key for key in ("model.test_time_flip", "data.augmentation.flip") if value_at(settings, key)]
    if settings.get("train") and value_at(settings, "data.mirror") is False and flips:
        raise UserError(
            f"expected no mirrored images because a mirror image is another class here (data.mirror=false) but found "
            f"{flips[0]}={value_at(settings, flips[0])}; leave it out, or say that they may be: data.mirror=true"
        )


def check_mix(settings: Settings) -> None:
    """Mixed targets are probabilities, in which no class can be left out."""
    ignored = value_at(settings, "model.ignore_index")
    mixes = [key for key in ("data.mix.mixup", "data.mix.cutmix") if value_at(settings, key)]
    if mixes and ignored is not None and ignored >= 0:
        raise UserError(
            f"expected no mixed labels because model.ignore_index={ignored} leaves out a class but found "
            f"{mixes[0]}={value_at(settings, mixes[0])}; leave one of the two out"
        )


def check_folds(settings: Settings) -> None:
    folds, fold = value_at(settings, "data.folds"), value_at(settings, "data.fold")
    if fold and folds is None:
        raise UserError(f"expected data.folds because data.fold={fold} but found none; for example data.folds=5")
    if folds is not None and fold is not None and fold >= folds:
        raise UserError(
            f"expected data.fold to be from 0 to {folds - 1} because data.folds={folds} but found {fold}; "
            f"all of them: -m 'data.fold=range({folds})'"
        )


def settle_paths(cfg: DictConfig) -> None:
    """Write `~` out in the paths of a configuration, as a shell would, and make the run directory absolute.

    Raises:
        UserError: A path holds what would be taken for an interpolation where the configuration is read again.
    """
    for key in PATHS:
        value = OmegaConf.select(cfg, key, throw_on_missing=False)
        if not isinstance(value, str):
            continue
        if "${" in value:
            raise UserError(f"expected {key} without the characters ${{ but found {value}; rename the directory")
        if value.startswith("~"):
            OmegaConf.update(cfg, key, str(Path(value).expanduser()))
    run_dir = OmegaConf.select(cfg, "paths.run_dir", throw_on_missing=False)
    if isinstance(run_dir, str):
        OmegaConf.update(cfg, "paths.run_dir", str(Path(run_dir).expanduser().absolute()))
