"""Train, evaluate, predict: make the objects that the configuration names, run them, return the metric."""

import logging
import time
import warnings
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf, open_dict
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from torch import Tensor

from image_classifier import predictions, summary
from image_classifier.callbacks.report import Report
from image_classifier.data.datamodule import ImageDataModule
from image_classifier.errors import UserError
from image_classifier.files import write_atomically, write_json
from image_classifier.instantiation import make
from image_classifier.loggers.base import RunLogger
from image_classifier.models.classifier import Classifier
from image_classifier.overhead import reduce_overhead
from image_classifier.provenance import command_line, git_commit
from image_classifier.sweeps.objectives import objective_values

for name in ("pytorch_lightning", "lightning_fabric"):
    logging.getLogger(name).setLevel(logging.WARNING)  # their notices bury ours
logging.getLogger("pytorch_lightning.profilers").setLevel(logging.INFO)  # debug=profiler: its table is asked for
warnings.filterwarnings("ignore", message="`isinstance\\(treespec, LeafSpec\\)` is deprecated")
warnings.filterwarnings("ignore", message="The number of training batches .* is smaller than the logging interval")
warnings.filterwarnings("ignore", message="It is recommended to use .*sync_dist=True")  # our metrics are synchronized
warnings.filterwarnings("ignore", message="The `srun` command is available on your system but is not used")


def train(cfg: DictConfig) -> Any:
    """Fit, test the best checkpoint, and save the final figures.

    Args:
        cfg: The composed `configs/train.yaml`.

    Returns:
        What sweepers optimize: the monitored metric of the best checkpoint, or the figures named in `objectives`.
    """
    run_dir = Path(cfg.paths.run_dir)
    if cfg.train and cfg.ckpt_path:
        check_resumable(cfg)
    prepare_run(cfg, run_dir)
    if cfg.train:
        datamodule = make_datamodule(cfg)
        model = make_model(cfg, datamodule)
    else:
        model, datamodule = load_run(cfg.ckpt_path)
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
    run_dir = Path(cfg.paths.run_dir)
    model, datamodule = load_run(cfg.ckpt_path, cfg.data)
    assert model.recipe is not None
    with open_dict(cfg):
        cfg.trainer.precision = cfg.trainer.precision or model.recipe["precision"]
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
    paths = predictions.input_pictures(cfg.input)
    model = load_model(read_checkpoint(cfg.ckpt_path))
    assert model.recipe is not None
    with open_dict(cfg):
        cfg.trainer.precision = cfg.trainer.precision or model.recipe["precision"]
    prepare_run(cfg, Path(cfg.paths.run_dir))
    pictures = predictions.PictureBatches(paths, model.recipe, cfg.batch_size)
    trainer: pl.Trainer = make(cfg.trainer, logger=False, enable_checkpointing=False, enable_progress_bar=False)
    batches = trainer.predict(model, pictures, weights_only=True)
    predictions.report(cast("list[Tensor]", batches), pictures, Path(cfg.output))


def fit(trainer: pl.Trainer, model: Classifier, datamodule: ImageDataModule, ckpt_path: str | None) -> dict[str, float]:
    """Train, resuming from a checkpoint if one is given.

    Returns:
        The validation metrics of the best checkpoint, the last training metrics, epochs and seconds.
    """
    start = time.perf_counter()
    trainer.fit(model, datamodule, ckpt_path=ckpt_path, weights_only=True)
    seconds = time.perf_counter() - start
    metrics = figures(trainer, "train/", "val/")
    if best := best_checkpoint(trainer):
        saved = torch.load(best, map_location="cpu", weights_only=True)["metrics"]
        metrics |= {name: float(f"{value:.7g}") for name, value in saved.items()}
    return metrics | {"epochs": trainer.current_epoch, "fit_seconds": round(seconds, 3)}


def test(trainer: pl.Trainer, model: Classifier, datamodule: ImageDataModule) -> dict[str, float]:
    """Test the best checkpoint of the run, or the model as it is when the run has none."""
    trainer.test(model, datamodule, ckpt_path=best_checkpoint(trainer), weights_only=True, verbose=False)
    return figures(trainer, "test/")


def figures(trainer: pl.Trainer, *prefixes: str) -> dict[str, float]:
    """The epoch's metrics as plain numbers, with the seven digits that float32 holds."""
    return {
        name: float(f"{float(value):.7g}")
        for name, value in trainer.callback_metrics.items()
        if name.startswith(prefixes) and not name.endswith("_step")
    }


def best_checkpoint(trainer: pl.Trainer) -> str | None:
    checkpoint = trainer.checkpoint_callback
    return (isinstance(checkpoint, ModelCheckpoint) and checkpoint.best_model_path) or None


def make_datamodule(cfg: DictConfig) -> ImageDataModule:
    datamodule: ImageDataModule = make(cfg.data)
    datamodule.prepare_data()
    return datamodule


def make_model(cfg: DictConfig, datamodule: ImageDataModule) -> Classifier:
    """The classifier, sized by the data, carrying the recipe from which `load_run` rebuilds both."""
    recipe = {
        "data": OmegaConf.to_container(cfg.data, resolve=True),
        "model": OmegaConf.to_container(cfg.model, resolve=True),
        "precision": cfg.trainer.precision,
        "image_shape": list(datamodule.image_shape),
        "class_names": list(datamodule.class_names),
        "mean": list(datamodule.mean),
        "std": list(datamodule.std),
    }
    if root := recipe["data"].get("root"):
        root = Path(root).absolute()
        if root.is_relative_to(cfg.paths.root_dir):  # so that a moved or cloned project finds its data
            root = root.relative_to(cfg.paths.root_dir)
        recipe["data"]["root"] = str(root)
    return build_model(cfg.model, recipe)


def build_model(model_cfg: DictConfig, recipe: dict[str, Any]) -> Classifier:
    settings = {key: value for key, value in model_cfg.items() if key != "net"}
    make_classifier = make(settings, _partial_=True)
    net = make(model_cfg.net, image_shape=tuple(recipe["image_shape"]), num_classes=len(recipe["class_names"]))
    return make_classifier(net=net, recipe=recipe)


def load_run(ckpt_path: str, data_overrides: DictConfig | None = None) -> tuple[Classifier, ImageDataModule]:
    """Rebuild model and datamodule from a checkpoint.

    Args:
        ckpt_path: A checkpoint that `train` wrote.
        data_overrides: Settings of the datamodule to use instead of the saved ones; null leaves one as it was.

    Raises:
        UserError: There is no such file, or it is none of ours.
    """
    checkpoint = read_checkpoint(ckpt_path)
    recipe = checkpoint["recipe"]
    data_cfg = OmegaConf.create(recipe["data"])
    if data_cfg.get("root") is not None:
        data_cfg.root = str(Path(__file__).resolve().parents[2] / data_cfg.root)  # an absolute root stays itself
    for key, value in (data_overrides or {}).items():
        if value is not None:
            data_cfg[key] = value
    datamodule: ImageDataModule = make(data_cfg)
    datamodule.prepare_data()
    if list(datamodule.class_names) != recipe["class_names"]:
        raise UserError(
            f"expected the classes that {ckpt_path} was trained on ({', '.join(recipe['class_names'])}) "
            f"but found {', '.join(datamodule.class_names)}; name the right data: data.root=DIR"
        )
    return load_model(checkpoint), datamodule


def load_model(checkpoint: dict[str, Any]) -> Classifier:
    """Rebuild the model from a checkpoint's recipe and weights."""
    model = build_model(OmegaConf.create(checkpoint["recipe"]["model"]), checkpoint["recipe"])
    model.load_state_dict(checkpoint["state_dict"])
    return model


def read_checkpoint(ckpt_path: str) -> dict[str, Any]:
    """The content of a checkpoint.

    Raises:
        UserError: There is no such file, or it is none of ours.
    """
    path = Path(ckpt_path)
    if not path.is_file():
        raise UserError(f"expected a checkpoint file but found none at {path}; see outputs/train/*/checkpoints/")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).split("\n")[0]
        raise UserError(f"expected a checkpoint written by train.py but found {path}: {reason}") from None
    if not isinstance(checkpoint, dict) or not checkpoint.get("recipe"):
        raise UserError(f"expected a checkpoint written by train.py but found {path}, which holds no recipe")
    return checkpoint


def check_resumable(cfg: DictConfig) -> None:
    """Raise UserError when the checkpoint to resume from is of another network."""
    saved = read_checkpoint(cfg.ckpt_path)["recipe"]["model"]["net"]
    wanted = OmegaConf.to_container(cfg.model.net, resolve=True)
    if saved != wanted:
        raise UserError(
            f"expected to resume the network of {cfg.ckpt_path} ({saved}) but found {wanted}; "
            "resume with the overrides of the first run (see its config.yaml)"
        )


def make_loggers(cfg: DictConfig) -> list[Any]:
    return [make(logger) for logger in (cfg.logger or {}).values()]


def close(loggers: list[Any]) -> None:
    """End the loggers' runs, so that the next job of a multirun starts its own."""
    for logger in loggers:
        logger.close() if isinstance(logger, RunLogger) else logger.finalize("success")


def make_trainer(cfg: DictConfig, loggers: list[Any]) -> pl.Trainer:
    callbacks = [make(callback) for callback in (cfg.callbacks or {}).values() if callback]
    if not loggers:  # Lightning refuses to monitor the rate for nobody
        callbacks = [callback for callback in callbacks if not isinstance(callback, LearningRateMonitor)]
    if cfg.confusion_matrix:
        callbacks.append(make(cfg.confusion_matrix))
    trainer: pl.Trainer = make(cfg.trainer, callbacks=callbacks, logger=loggers or False)
    reduce_overhead(trainer)
    return trainer


def prepare_run(cfg: DictConfig, run_dir: Path) -> None:
    """Seed everything, settle what is left to the machine, and save the resolved configuration."""
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
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
        **flatten(OmegaConf.to_container(cfg, resolve=True)),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "git_commit": git_commit(),
        "command": command_line(),
    }


def flatten(settings: Any, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


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
