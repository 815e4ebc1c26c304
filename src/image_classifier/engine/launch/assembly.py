"""The objects of a run, made from its configuration."""

import inspect
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import (
    Checkpoint,
    EarlyStopping,
    LearningRateMonitor,
    ModelSummary,
    ProgressBar,
)
from torchmetrics import Metric

from image_classifier.engine.checkpoint import accepted, network_arguments
from image_classifier.engine.errors import UserError
from image_classifier.engine.launch.monitored import ALWAYS, BY_CALLBACKS, monitored_metrics
from image_classifier.engine.launch.objects import make
from image_classifier.engine.launch.resume import typed_overrides
from image_classifier.engine.loggers import guard
from image_classifier.engine.loggers.base import RunLogger
from image_classifier.engine.loggers.resumption import MarkLoggers
from image_classifier.engine.runs.results import Results
from image_classifier.engine.secrets import hidden
from image_classifier.engine.terminal import say
from image_classifier.engine.training.best_checkpoint import BestCheckpoint
from image_classifier.engine.training.checkpoint_contents import CheckpointContents
from image_classifier.engine.training.checkpoint_io import AtomicCheckpointIO
from image_classifier.engine.training.convolutions import widen_narrow_images
from image_classifier.engine.training.factories import refused
from image_classifier.engine.training.fine_tuning import FrozenStatistics, class_weights, freeze, init_from
from image_classifier.engine.training.fitting import resume_between_epochs
from image_classifier.engine.training.metrics import EpochMetrics
from image_classifier.engine.training.monitored import MonitoredMetrics
from image_classifier.engine.training.random_states import RandomStates
from image_classifier.engine.training.shortcuts import take_shortcuts

# Of the trainer, for callbacks that Lightning adds where there are none of their kind.
SWITCHES: dict[str, type] = {
    "enable_progress_bar": ProgressBar,
    "enable_checkpointing": Checkpoint,
    "enable_model_summary": ModelSummary,
}


def make_datamodule(cfg: DictConfig) -> Any:
    datamodule = make(cfg.data, cfg.get("trusted", ()))
    datamodule.prepare_data()
    return datamodule


def recipe_of(cfg: DictConfig, datamodule: Any) -> dict[str, Any]:
    """What a checkpoint keeps so that model and data can be rebuilt from it alone, in plain containers."""
    recipe = {
        "data": OmegaConf.to_container(cfg.data, resolve=True),
        "model": OmegaConf.to_container(cfg.model, resolve=True),
        "metrics": plain(cfg.get("metrics")),
        "seed": cfg.get("seed"),
        "monitor": OmegaConf.to_container(cfg.monitor, resolve=True),
        "image_shape": list(datamodule.image_shape),
        "class_names": list(datamodule.class_names),
        "mean": list(datamodule.mean),
        "std": list(datamodule.std),
    }
    if root := recipe["data"].get("root"):
        root = Path(root).expanduser().absolute()
        if root.is_relative_to(cfg.paths.root_dir):  # so that a moved or cloned project finds its data
            root = root.relative_to(cfg.paths.root_dir)
        recipe["data"]["root"] = str(root)
    return recipe


def plain(settings: DictConfig | None) -> dict[str, Any]:
    """Settings in plain containers; none for null."""
    return dict(OmegaConf.to_container(settings, resolve=True)) if settings else {}  # type: ignore[arg-type]


def make_model(cfg: DictConfig, datamodule: Any, recipe: dict[str, Any] | None = None) -> pl.LightningModule:
    """The model, sized by the data.

    Args:
        cfg: The composed `configs/train.yaml`.
        datamodule: After `prepare_data`.
        recipe: What `recipe_of` returned; its optimizer, scheduler and loss lose what does not belong to them.
    """
    trusted = cfg.get("trusted", ())
    recipe = recipe or recipe_of(cfg, datamodule)
    settings = recipe["model"]
    for part in ("optimizer", "scheduler", "loss"):
        settings[part] = without_leftovers(settings[part], f"model.{part}", trusted) if settings.get(part) else None
    own = {key: value for key, value in settings.items() if key not in ("net", "loss", "init_from", "freeze")}
    net = make_network(settings["net"], recipe, trusted, load_weights=not cfg.get("ckpt_path"))
    widen_narrow_images(net)
    if settings.get("init_from") and not cfg.get("ckpt_path"):
        init_from(net, settings["init_from"])
    freeze(net, settings.get("freeze") or ())
    loss = make_loss(settings["loss"], datamodule, trusted) if settings["loss"] else None
    model: pl.LightningModule = called("model", make(own, trusted, _partial_=True), net=net, loss=loss)
    model.example_input_array = torch.zeros(2, *recipe["image_shape"])  # for the model summary
    return model


def make_network(settings: dict[str, Any], recipe: dict[str, Any], trusted: Sequence[str], load_weights: bool) -> Any:
    """The network, told what it asks of the data, and whether published weights are needed."""
    factory = make(settings, trusted, _partial_=True)
    further = accepted(factory.func, {"load_weights": load_weights})
    return called("model.net", factory, **network_arguments(factory.func, recipe), **further)


def called(setting: str, factory: Any, **arguments: Any) -> Any:
    """Call a factory; what it, or torch in it, says against its settings is told in one line that names them.

    Raises:
        UserError: It failed, unless the variable HYDRA_FULL_ERROR asks for the traceback.
    """
    try:
        return factory(**arguments)
    except (UserError, OSError, MemoryError):
        raise
    except Exception as error:
        if os.environ.get("HYDRA_FULL_ERROR"):
            raise
        raise UserError(f"{refused(setting, factory, error)} (HYDRA_FULL_ERROR=1 shows where)") from error


def make_loss(settings: dict[str, Any], datamodule: Any, trusted: Sequence[str]) -> Any:
    weight = settings.get("weight")
    others = {key: value for key, value in settings.items() if key != "weight"}
    if weight is None:
        return make(others, trusted)
    weights = class_weights(weight, datamodule.class_counts())
    return called("model.loss", make(others, trusted, _partial_=True), weight=weights)


def without_leftovers(settings: dict[str, Any], setting: str, trusted: Sequence[str]) -> dict[str, Any]:
    """Settings of an optimizer, scheduler or loss without those that belong to another one.

    Raises:
        UserError: One of those was asked for on the command line.
    """
    parameters = inspect.signature(target_of(settings, trusted)).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return settings
    unknown = [key for key in settings if key not in parameters and not key.startswith("_")]
    if asked := [key for key in unknown if f"{setting}.{key}" in typed_overrides()]:
        takes = [name for name in parameters if name not in ("params", "optimizer")]
        raise UserError(
            f"expected arguments that {settings['_target_']} has ({', '.join(takes)}) "
            f"but found {', '.join(f'{setting}.{key}' for key in asked)}; leave it out"
        )
    unknown = [key for key in unknown if settings[key] is not None]
    if told := [key for key in unknown if key != "ignore_index"]:
        say(f"{settings['_target_']} has no {', '.join(told)}: left out of {setting}")
    return {key: value for key, value in settings.items() if key in parameters or key.startswith("_")}


def make_metrics(settings: Mapping[str, Any] | None, num_classes: int, trusted: Sequence[str]) -> dict[str, Metric]:
    """Metrics by name, told the number of classes where they ask for it.

    Raises:
        UserError: One is no metric of torchmetrics, or has the name of one that is logged anyway.
    """
    made = {}
    if taken := sorted({name.partition("/")[0] for name in settings or ()} & {*ALWAYS, *BY_CALLBACKS}):
        raise UserError(
            f"expected metrics under names that are free but found {', '.join(taken)}, which the project logs itself; "
            f"for example metrics.own_{taken[0]}"
        )
    for name, chosen in (settings or {}).items():
        factory = make(chosen, trusted, _partial_=True)
        missing = {} if "num_classes" in chosen else accepted(factory.func, {"num_classes": num_classes})
        try:
            made[name] = factory(**missing)
        except (TypeError, ValueError) as error:
            raise refused(f"metrics.{name}", factory, error) from error
        if not isinstance(made[name], Metric):
            raise UserError(
                f"expected metrics.{name} to be a metric of torchmetrics but found {type(made[name]).__name__}"
            )
    return made


def make_loggers(cfg: DictConfig) -> list[Any]:
    """The loggers; one that cannot be made, or fails later, is told and left out: `engine/loggers/guard.py`."""
    trusted = cfg.get("trusted", ())
    made_of = {name: guard.made(name, partial(make, logger, trusted)) for name, logger in (cfg.logger or {}).items()}
    return [logger for logger in made_of.values() if logger is not None]


def close(loggers: list[Any]) -> None:
    """End the loggers' runs, so that the next job of a multirun starts its own."""
    for logger in loggers:
        logger.close() if isinstance(logger, RunLogger) else logger.finalize("success")
    guard.tell_failures(loggers)


def make_trainer(
    cfg: DictConfig, loggers: list[Any], recipe: dict[str, Any] | None = None, results: Results | None = None
) -> pl.Trainer:
    """The trainer with all callbacks.

    Args:
        cfg: The composed configuration.
        loggers: What `make_loggers` returned.
        recipe: For the checkpoints; its metrics are joined by those of the configuration.
        results: Handed to the callbacks that have a parameter of this name.
    """
    trusted = cfg.get("trusted", ())
    recipe = recipe or {}
    chosen_metrics = {**recipe.get("metrics", {}), **plain(cfg.get("metrics"))}
    metrics = make_metrics(chosen_metrics, len(recipe.get("class_names", ())), trusted)
    chosen = {f"callbacks.{name}": callback for name, callback in (cfg.callbacks or {}).items() if callback}
    if cfg.confusion_matrix:
        chosen["confusion_matrix"] = cfg.confusion_matrix
    made = [make_callback(name, settings, trusted, results) for name, settings in chosen.items()]
    callbacks = [
        EpochMetrics(metrics),  # the first: others read what it logs
        *suitable(made, cfg.trainer, bool(loggers)),
        MonitoredMetrics(list(monitored_metrics(cfg))),
        CheckpointContents(hidden(recipe, instead=None), results),
        MarkLoggers(),
        FrozenStatistics(),
        RandomStates(),
    ]
    plugins = [AtomicCheckpointIO(), *(make(plugin, trusted) for plugin in cfg.trainer.get("plugins") or ())]
    none = [switch for switch, kind in SWITCHES.items() if not any(isinstance(made, kind) for made in callbacks)]
    off = {switch: False for switch in none if cfg.trainer.get(switch) is None}  # or Lightning would add its own
    trainer: pl.Trainer = make(
        cfg.trainer, trusted, callbacks=callbacks, logger=loggers or False, plugins=plugins, **off
    )
    resume_between_epochs(trainer)
    if cfg.get("shortcuts"):
        take_shortcuts(trainer)
    return trainer


def make_callback(name: str, settings: Any, trusted: Sequence[str], results: Results | None) -> pl.Callback:
    factory = make(settings, trusted, _partial_=True)
    return called(name, factory, **accepted(factory.func, {"results": results}))


def target_of(settings: Mapping[str, Any], trusted: Sequence[str]) -> Any:
    """The class or function that settings name, if they may; nothing of theirs is made."""
    return make({"_target_": settings["_target_"], "_partial_": True}, trusted).func


def suitable(callbacks: list[pl.Callback], settings: DictConfig, logs: bool) -> list[pl.Callback]:
    """Those callbacks that have something to do under the trainer's settings; Lightning refuses the others."""
    idle: tuple[type, ...] = () if logs else (LearningRateMonitor,)
    for switch, kind in SWITCHES.items():
        if settings.get(switch) is False:
            idle += (kind,)
    if settings.get("limit_val_batches") == 0 and not settings.get("fast_dev_run"):
        idle += (EarlyStopping,)
        for callback in callbacks:
            if isinstance(callback, BestCheckpoint):
                callback.monitor = None
        say("No validation (trainer.limit_val_batches=0): best.ckpt is the last epoch, nothing stops early")
    return [callback for callback in callbacks if not isinstance(callback, idle)]
