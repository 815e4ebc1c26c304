"""Train, evaluate, predict: make the objects that the configuration names, run them, return the metric."""

import inspect
import logging
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf, open_dict
from pytorch_lightning.callbacks import (
    Checkpoint,
    EarlyStopping,
    LearningRateMonitor,
    ModelCheckpoint,
    ModelSummary,
    ProgressBar,
    StochasticWeightAveraging,
)
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from torch import Tensor

from image_classifier.callbacks.confusion_matrix import ConfusionMatrixCallback
from image_classifier.callbacks.report import Report
from image_classifier.data.datamodule import ImageDataModule
from image_classifier.engine.checkpoint import accepted, load_datamodule, load_model, network_arguments, read_checkpoint
from image_classifier.engine.errors import UserError
from image_classifier.engine.launch.checks import check_config, settle_paths
from image_classifier.engine.launch.objects import make
from image_classifier.engine.launch.resume import adopt, check_resumable, flatten, typed_overrides
from image_classifier.engine.loggers.base import RunLogger
from image_classifier.engine.runs import predictions, summary
from image_classifier.engine.runs.files import write_atomically, write_json
from image_classifier.engine.runs.provenance import command_line, git_commit
from image_classifier.engine.sweeps.objectives import objective_values
from image_classifier.engine.training.best_checkpoint import BestCheckpoint
from image_classifier.engine.training.checkpoint_io import AtomicCheckpointIO
from image_classifier.engine.training.last_checkpoint import training_metrics
from image_classifier.engine.training.overhead import reduce_overhead
from image_classifier.engine.training.random_states import RandomStates
from image_classifier.models.classifier import Classifier

for name in ("pytorch_lightning", "lightning_fabric"):
    logging.getLogger(name).setLevel(logging.WARNING)  # their notices bury ours
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # that it lists the fonts, once
logging.getLogger("pytorch_lightning.profilers").setLevel(logging.INFO)  # debug=profiler: its table is asked for
warnings.filterwarnings("ignore", message="`isinstance\\(treespec, LeafSpec\\)` is deprecated")
warnings.filterwarnings("ignore", message="The number of training batches .* is smaller than the logging interval")
warnings.filterwarnings("ignore", message="It is recommended to use .*sync_dist=True")  # our metrics are synchronized
warnings.filterwarnings("ignore", message="ReduceLROnPlateau conditioned on metric")  # rarer validations are allowed
warnings.filterwarnings("ignore", message="Early stopping conditioned on metric")
warnings.filterwarnings("ignore", message="Precision .* is not supported by the model summary")  # of its megabytes
warnings.filterwarnings("ignore", message="The dirpath has changed")  # BestCheckpoint knows the earlier best
warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")  # a run that goes on
warnings.filterwarnings("ignore", message="The `srun` command is available on your system but is not used")


def train(cfg: DictConfig) -> Any:
    """Fit, test the best checkpoint, and save the final figures.

    Args:
        cfg: The composed `configs/train.yaml`.

    Returns:
        What sweepers optimize: the monitored metric of the best checkpoint, or the figures named in `objectives`.
    """
    settle(cfg)
    run_dir = Path(cfg.paths.run_dir)
    checkpoint = read_checkpoint(cfg.ckpt_path, cfg.trusted) if cfg.ckpt_path else None
    if checkpoint is not None:
        check_resumable(cfg, checkpoint) if cfg.train else adopt(cfg, checkpoint)
    prepare_run(cfg, run_dir)
    if cfg.train:
        datamodule = make_datamodule(cfg)
        model = make_model(cfg, datamodule)
    else:
        model, datamodule = load_run(cfg.ckpt_path, trusted=cfg.trusted)
    loggers = make_loggers(cfg)
    try:
        trainer = make_trainer(cfg, loggers)
        facts = run_facts(cfg, model)
        for logger in loggers if trainer.is_global_zero else ():
            logger.log_facts(facts) if isinstance(logger, RunLogger) else logger.log_hyperparams(facts)
        metrics: dict[str, float] = {"parameters": facts["parameters"]}
        if cfg.train:
            metrics |= fit(trainer, model, datamodule, cfg.ckpt_path)
        if cfg.test:
            metrics |= test(trainer, model, datamodule)
        finish_run(run_dir, trainer, metrics)
    finally:
        close(loggers)
    return objective_values(cfg, metrics)


def evaluate(cfg: DictConfig) -> float:
    """Test a checkpoint, rebuilding data and model from it alone.

    Args:
        cfg: The composed `configs/eval.yaml`.

    Returns:
        The test accuracy.
    """
    settle(cfg)
    run_dir = Path(cfg.paths.run_dir)
    model, datamodule = load_run(cfg.ckpt_path, cfg.data, cfg.trusted)
    as_in_training(cfg, model)
    prepare_run(cfg, run_dir)
    loggers = make_loggers(cfg)
    try:
        trainer = make_trainer(cfg, loggers)
        metrics = test(trainer, model, datamodule)
        finish_run(run_dir, trainer, metrics)
        summary.print_class_report(trainer)
    finally:
        close(loggers)
    return metrics["test/acc"]


def predict(cfg: DictConfig) -> None:
    """Classify pictures with a checkpoint; no training data is needed.

    Args:
        cfg: The composed `configs/predict.yaml`.

    Raises:
        UserError: There are no pictures; or, once all others are predicted and written, some cannot be read.
    """
    settle(cfg)
    paths = predictions.input_pictures(cfg.input)
    model = load_model(read_checkpoint(cfg.ckpt_path, cfg.trusted))
    assert model.recipe is not None
    as_in_training(cfg, model)
    prepare_run(cfg, Path(cfg.paths.run_dir))
    pictures = predictions.PictureBatches(paths, model.recipe, cfg.batch_size)
    trainer: pl.Trainer = make(
        cfg.trainer, cfg.trusted, logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    batches = trainer.predict(model, pictures, weights_only=True)
    predictions.report(cast("list[Tensor]", batches), pictures, Path(cfg.output))


def fit(trainer: pl.Trainer, model: Classifier, datamodule: ImageDataModule, ckpt_path: str | None) -> dict[str, float]:
    """Train, resuming from a checkpoint if one is given.

    Returns:
        The validation metrics of the best checkpoint, the last training metrics, epochs and seconds.
    """
    start = time.perf_counter()
    try:
        trainer.fit(model, datamodule, ckpt_path=ckpt_path, weights_only=True)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise UserError(
            "expected at least two images a batch, because the network has batch normalisation, but found one; "
            "for example data.batch_size=2"
        ) from error
    epochs = trainer.current_epoch
    metrics = rounded(training_metrics(ckpt_path)) | figures(trainer, "train/", "val/")
    if not_validated_yet(trainer):
        # The last epoch had no validation, or the weights were averaged at the very end.
        trainer.validate(model, datamodule, verbose=False)
        metrics |= figures(trainer, "val/")
        assert isinstance(trainer.checkpoint_callback, BestCheckpoint)
        trainer.checkpoint_callback.consider(trainer)
    seconds = time.perf_counter() - start
    if best := best_checkpoint(trainer):
        saved = torch.load(best, map_location="cpu", weights_only=True)
        metrics |= {name: float(f"{value:.7g}") for name, value in saved["metrics"].items()}
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, ConfusionMatrixCallback):
                callback.save_counts_of(saved, trainer)
    return metrics | {"epochs": epochs, "fit_seconds": round(seconds, 3)}


def not_validated_yet(trainer: pl.Trainer) -> bool:
    """Whether the weights at the end of the training are others than those that were validated last."""
    checkpoint = trainer.checkpoint_callback
    if not isinstance(checkpoint, BestCheckpoint) or checkpoint.monitor is None or trainer.fast_dev_run:  # type: ignore[attr-defined]
        return False
    if checkpoint.validated_step is None:  # nothing was left to train
        return False
    swapped = any(isinstance(callback, StochasticWeightAveraging) for callback in trainer.callbacks)  # type: ignore[attr-defined]
    return swapped or checkpoint.validated_step != trainer.global_step


def test(trainer: pl.Trainer, model: Classifier, datamodule: ImageDataModule) -> dict[str, float]:
    """Test the best checkpoint of the run, or the model as it is when the run has none."""
    if best := best_checkpoint(trainer):
        # Not by `trainer.test(ckpt_path=...)`: there a callback that averages weights puts the others in their place.
        model.load_state_dict(torch.load(best, map_location="cpu", weights_only=True)["state_dict"])
    trainer.test(model, datamodule, verbose=False)
    return figures(trainer, "test/")


def figures(trainer: pl.Trainer, *prefixes: str) -> dict[str, float]:
    """The epoch's metrics as plain numbers, with the seven digits that float32 holds."""
    return rounded(
        {
            name: float(value)
            for name, value in trainer.callback_metrics.items()
            if name.startswith(prefixes) and not name.endswith("_step")
        }
    )


def rounded(metrics: dict[str, float]) -> dict[str, float]:
    return {name: float(f"{value:.7g}") for name, value in metrics.items()}


def best_checkpoint(trainer: pl.Trainer) -> Path | None:
    checkpoint = trainer.checkpoint_callback
    if isinstance(checkpoint, BestCheckpoint):
        return checkpoint.best_path
    best = isinstance(checkpoint, ModelCheckpoint) and checkpoint.best_model_path
    return Path(best) if best else None


def make_datamodule(cfg: DictConfig) -> ImageDataModule:
    datamodule: ImageDataModule = make(cfg.data, cfg.get("trusted", ()))
    datamodule.prepare_data()
    return datamodule


def make_model(cfg: DictConfig, datamodule: ImageDataModule) -> Classifier:
    """The classifier, sized by the data, carrying the recipe from which `load_run` rebuilds both."""
    trusted = cfg.get("trusted", ())
    settings = OmegaConf.to_container(cfg.model, resolve=True)
    assert isinstance(settings, dict)
    for part in ("optimizer", "scheduler"):
        if settings.get(part):
            settings[part] = without_leftovers(settings[part], f"model.{part}", trusted)
    recipe = {
        "data": OmegaConf.to_container(cfg.data, resolve=True),
        "model": settings,
        "seed": cfg.get("seed"),
        "monitor": OmegaConf.to_container(cfg.monitor, resolve=True),
        "precision": cfg.trainer.precision,
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
    make_net = make(settings["net"], trusted, _partial_=True)
    # When the run goes on from a checkpoint, published weights are not needed.
    weights_follow = accepted(make_net.func, {"load_weights": not cfg.get("ckpt_path")})
    net = make_net(**network_arguments(make_net.func, recipe), **weights_follow)
    make_classifier = make({key: value for key, value in settings.items() if key != "net"}, trusted, _partial_=True)
    return make_classifier(net=net, recipe=recipe)


def without_leftovers(settings: dict[str, Any], setting: str, trusted: Sequence[str]) -> dict[str, Any]:
    """Settings of an optimizer or scheduler without those that belong to the default one and not to this.

    Raises:
        UserError: One of those was asked for on the command line.
    """
    parameters = inspect.signature(make({"_target_": settings["_target_"], "_partial_": True}, trusted).func).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return settings
    unknown = [key for key in settings if key not in parameters and not key.startswith("_")]
    if asked := [key for key in unknown if f"{setting}.{key}" in typed_overrides()]:
        raise UserError(
            f"expected arguments that {settings['_target_']} has ({', '.join(list(parameters)[1:])}) "
            f"but found {', '.join(f'{setting}.{key}' for key in asked)}; leave it out"
        )
    if unknown:
        print(f"{settings['_target_']} has no {', '.join(unknown)}: left out of {setting}", flush=True)
    return {key: value for key, value in settings.items() if key not in unknown}


def load_run(
    ckpt_path: str, data_overrides: DictConfig | None = None, trusted: Sequence[str] = ()
) -> tuple[Classifier, ImageDataModule]:
    """Rebuild model and datamodule from a checkpoint.

    Args:
        ckpt_path: A checkpoint that `train` wrote.
        data_overrides: Settings of the datamodule to use instead of the saved ones; null leaves one as it was.
        trusted: Further names that the checkpoint may hold.

    Raises:
        UserError: The file cannot be read, its recipe does not fit the code, or the data has other classes.
    """
    checkpoint = read_checkpoint(ckpt_path, trusted)
    recipe = checkpoint["recipe"]
    overrides = {key: value for key, value in (data_overrides or {}).items() if value is not None}
    root = overrides.pop("root", None)
    recipe["data"] |= overrides
    datamodule = load_datamodule(checkpoint)
    state = checkpoint.get(type(datamodule).__qualname__, {})
    if root is None and "pictures" in state:  # leaves out what was trained on, even if files were added since then
        root = str(datamodule.root)
    if root is not None:
        datamodule.relocate(root, recipe["class_names"], state)
    datamodule.prepare_data()
    if list(datamodule.class_names) != recipe["class_names"]:
        raise UserError(
            f"expected the classes that {ckpt_path} was trained on ({', '.join(recipe['class_names'])}) "
            f"but found {', '.join(datamodule.class_names)}; name the right data: data.root=DIR"
        )
    return load_model(checkpoint), datamodule


def as_in_training(cfg: DictConfig, model: Classifier) -> None:
    """The precision of the training where none is asked for."""
    assert model.recipe is not None
    with open_dict(cfg):
        cfg.trainer.precision = cfg.trainer.precision or model.recipe["precision"]


def make_loggers(cfg: DictConfig) -> list[Any]:
    return [make(logger, cfg.get("trusted", ())) for logger in (cfg.logger or {}).values()]


def close(loggers: list[Any]) -> None:
    """End the loggers' runs, so that the next job of a multirun starts its own."""
    for logger in loggers:
        logger.close() if isinstance(logger, RunLogger) else logger.finalize("success")


def make_trainer(cfg: DictConfig, loggers: list[Any]) -> pl.Trainer:
    trusted = cfg.get("trusted", ())
    callbacks = [make(callback, trusted) for callback in (cfg.callbacks or {}).values() if callback]
    callbacks = suitable(callbacks, cfg.trainer, bool(loggers))
    if cfg.confusion_matrix:
        callbacks.append(make(cfg.confusion_matrix, trusted))
    callbacks.append(RandomStates())
    plugins = [AtomicCheckpointIO(), *(make(plugin, trusted) for plugin in cfg.trainer.get("plugins") or ())]
    trainer: pl.Trainer = make(cfg.trainer, trusted, callbacks=callbacks, logger=loggers or False, plugins=plugins)
    reduce_overhead(trainer)
    return trainer


def suitable(callbacks: list[pl.Callback], settings: DictConfig, logs: bool) -> list[pl.Callback]:
    """Those callbacks that have something to do under the trainer's settings; Lightning refuses the others."""
    idle: tuple[type, ...] = () if logs else (LearningRateMonitor,)
    for switch, kind in (
        ("enable_progress_bar", ProgressBar),
        ("enable_checkpointing", Checkpoint),
        ("enable_model_summary", ModelSummary),
    ):
        if settings.get(switch) is False:
            idle += (kind,)
    if settings.get("limit_val_batches") == 0 and not settings.get("fast_dev_run"):
        idle += (EarlyStopping,)
        for callback in callbacks:
            if isinstance(callback, BestCheckpoint):
                callback.monitor = None
        print("No validation (trainer.limit_val_batches=0): best.ckpt is the last epoch, nothing stops early")
    return [callback for callback in callbacks if not isinstance(callback, idle)]


def settle(cfg: DictConfig) -> None:
    """Check the configuration, as the commands have done, and write paths out; for callers in Python."""
    settle_paths(cfg)
    check_config(cfg)


def prepare_run(cfg: DictConfig, run_dir: Path) -> None:
    """Seed everything, settle what is left to the machine, and save the resolved configuration."""
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    torch.use_deterministic_algorithms(False)  # Lightning sets it for the process: not for the next job of a multirun
    torch.set_float32_matmul_precision("high")  # TF32 on GPUs that have it
    if cfg.trainer.precision == "auto":
        with open_dict(cfg):
            cfg.trainer.precision = fastest_precision(cfg.trainer.accelerator)
        print(f"Precision: {cfg.trainer.precision} (chosen by trainer.precision=auto)")
    if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
        write_atomically(run_dir / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True))


def fastest_precision(accelerator: str) -> str:
    """bf16 autocast where the hardware multiplies bf16 natively; emulation would be slower than float32."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    if accelerator in ("auto", "cpu") and not torch.backends.mps.is_available():
        capabilities = torch.cpu.get_capabilities()
        return "bf16-mixed" if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else "32-true"
    return "32-true"


def run_facts(cfg: DictConfig, model: Classifier) -> dict[str, Any]:
    """Settings under flat keys, parameter count, git commit and command line."""
    return {
        **flatten(cast("dict[str, Any]", OmegaConf.to_container(cfg, resolve=True))),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "git_commit": git_commit(),
        "command": command_line(),
    }


def finish_run(run_dir: Path, trainer: pl.Trainer, metrics: dict[str, float]) -> None:
    if not trainer.is_global_zero:
        return
    write_json(run_dir / "metrics.json", metrics)
    for logger in trainer.loggers:
        if isinstance(logger, RunLogger):
            logger.log_final_metrics(metrics)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Report):
            callback.write(trainer, metrics)
    summary.print_summary(run_dir, trainer, metrics)
