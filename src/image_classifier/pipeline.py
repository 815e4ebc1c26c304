"""Train, evaluate, predict, export: make the objects that the configuration names, run them, return the metric."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
from omegaconf import DictConfig
from torch import Tensor

from image_classifier.engine.checkpoint import load_data, load_model, load_run, read_checkpoint
from image_classifier.engine.export import (
    PixelsToProbabilities,
    export_metadata,
    export_network,
    export_paths,
    first_images,
)
from image_classifier.engine.images.normalization import Normalized
from image_classifier.engine.images.pictures import PictureForm
from image_classifier.engine.images.unlabelled import PictureBatches, input_pictures
from image_classifier.engine.launch.assembly import (
    close,
    make_datamodule,
    make_loggers,
    make_model,
    make_trainer,
    recipe_of,
)
from image_classifier.engine.launch.command_line import command_line
from image_classifier.engine.launch.objects import make
from image_classifier.engine.launch.preparation import prepare_run, run_facts, settle, settle_precision
from image_classifier.engine.launch.resume import adopt, check_resumable
from image_classifier.engine.loggers.base import log_facts, log_final_metrics
from image_classifier.engine.loggers.resumption import begin
from image_classifier.engine.runs import prediction_page, predictions, summary
from image_classifier.engine.runs.files import write_json
from image_classifier.engine.runs.results import Results
from image_classifier.engine.sweeps.objectives import objective_values
from image_classifier.engine.terminal import say
from image_classifier.engine.training.dry_run import dry_run
from image_classifier.engine.training.fitting import fit, test
from image_classifier.models.classifier import Classifier

__all__ = ["evaluate", "export", "load_run", "predict", "train"]


def train(cfg: DictConfig) -> Any:
    """Fit, test the best checkpoint, and save the final metrics.

    Args:
        cfg: The composed `configs/train.yaml`.

    Returns:
        What sweepers optimize: the monitored metric of the best checkpoint, or the metrics named in `objectives`.
    """
    settle(cfg)
    checkpoint = read_checkpoint(cfg.ckpt_path, cfg.trusted) if cfg.ckpt_path else None
    if checkpoint is not None:
        check_resumable(cfg, checkpoint) if cfg.train else adopt(cfg, checkpoint)
    prepare_run(cfg, checkpoint and checkpoint["recipe"]["precision"])
    if cfg.train:
        datamodule = make_datamodule(cfg)
        recipe = recipe_of(cfg, datamodule)
        model = make_model(cfg, datamodule, recipe)
        if type(model) is Classifier:  # a module of your own may do what it wants with its network and loss
            dry_run(model, len(recipe["class_names"]), mixed=getattr(datamodule, "mix", None) is not None)
        settle_precision(cfg, model, recipe)
    else:
        assert checkpoint is not None
        datamodule, model, recipe = load_data(checkpoint, cfg.ckpt_path), load_model(checkpoint), checkpoint["recipe"]
    metrics: dict[str, float] = {}
    results = Results(command_line())
    loggers = make_loggers(cfg)
    try:
        trainer = make_trainer(cfg, loggers, recipe, results)
        if cfg.train:
            begin(loggers, cfg.paths.run_dir, cfg.ckpt_path, checkpoint)
        facts = run_facts(cfg, model)
        log_facts(trainer, facts)
        metrics["parameters"] = facts["parameters"]
        if cfg.train:
            metrics |= fit(trainer, model, datamodule, results, cfg.ckpt_path)
        if cfg.test:
            metrics |= test(trainer, model, datamodule)
        finish_run(cfg, trainer, metrics, results)
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
    checkpoint = read_checkpoint(cfg.ckpt_path, cfg.trusted)
    datamodule, model = load_data(checkpoint, cfg.ckpt_path, cfg.data), load_model(checkpoint)
    prepare_run(cfg, checkpoint["recipe"]["precision"])
    results = Results(command_line())
    loggers = make_loggers(cfg)
    try:
        trainer = make_trainer(cfg, loggers, checkpoint["recipe"], results)
        metrics = test(trainer, model, datamodule)
        finish_run(cfg, trainer, metrics, results)
        summary.print_class_report(results)
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
    output = Path(cfg.output)
    predictions.check_output(output)
    paths = input_pictures(cfg.input)
    checkpoint = read_checkpoint(cfg.ckpt_path, cfg.trusted)
    model, recipe = load_model(checkpoint), checkpoint["recipe"]
    prepare_run(cfg, recipe["precision"])
    pictures = PictureBatches(paths, PictureForm.from_recipe(recipe), cfg.batch_size, cfg.decode_threads)
    trainer: pl.Trainer = make(
        cfg.trainer, cfg.trusted, logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    batches = trainer.predict(model, Normalized(pictures, recipe["mean"], recipe["std"]), weights_only=True)
    found = predictions.of_pictures(
        pictures, cast("list[Tensor]", batches), recipe["class_names"], cfg.top_k, cfg.input
    )
    predictions.write(found, output, Path(cfg.paths.run_dir))
    if page := prediction_page.write_page(found, pictures, Path(cfg.paths.run_dir), command_line()):
        say(f"Report: {page}")
    predictions.check_all_read(pictures.unreadable, len(paths), output)


def export(cfg: DictConfig) -> None:
    """Write a checkpoint's network as files that run without this project, each checked on real images.

    Args:
        cfg: The composed `configs/export.yaml`.

    Raises:
        UserError: There are no images to check with, or the network cannot be written in a format.
    """
    settle(cfg)
    paths = export_paths(cfg.output, cfg.ckpt_path)
    checkpoint = read_checkpoint(cfg.ckpt_path, cfg.trusted)
    model, recipe = load_model(checkpoint), checkpoint["recipe"]
    batches: Iterable[Tensor]
    if cfg.input:
        batches = PictureBatches(input_pictures(cfg.input)[: cfg.check_images], PictureForm.from_recipe(recipe), 256)
    else:
        datamodule = load_data(checkpoint, cfg.ckpt_path, cfg.data)
        datamodule.setup("test")
        batches = (images for images, _ in datamodule.test_dataloader())
    images = first_images(batches, cfg.check_images)
    network = PixelsToProbabilities(model, recipe["mean"], recipe["std"])
    for path in paths:
        say(export_network(network, images, path, export_metadata(recipe)))


def finish_run(cfg: DictConfig, trainer: pl.Trainer, metrics: dict[str, float], results: Results) -> None:
    """Write the final metrics, the report and whatever else waits for them, and print the summary."""
    if not trainer.is_global_zero:
        return
    run_dir = Path(cfg.paths.run_dir)
    write_json(run_dir / "metrics.json", metrics)
    for stage in results.counts:
        results.save_counts(run_dir, stage)
    log_final_metrics(trainer, metrics)
    for write in results.at_end:
        write(trainer, metrics)
    summary.print_summary(run_dir, results, metrics)
