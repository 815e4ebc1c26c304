"""Epoch of the pipeline (validation, logging, checkpoints and confusion matrix included) against a bare PyTorch loop.

python benchmarks/epoch.py

Both train the same network on the same images with the same batch size, optimizer, augmentation, precision and threads,
alternating epoch by epoch within one fit, so that whatever else the machine does hits both. A network that looks at
mirror images in its validation, as the CNN does, validates in the bare loop, too: that is a tenth of its epoch.
"""

from common import Row, ratio, seconds, write_results

# isort: split
import inspect
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise

import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from torch import Tensor

from image_classifier.data.datamodule import ImageDataModule
from image_classifier.data.synthetic import generate_images
from image_classifier.engine.images.normalization import normalize
from image_classifier.engine.launch import assembly
from image_classifier.engine.launch.configuration import CONFIG_DIR  # and registers the resolvers
from image_classifier.engine.launch.objects import make
from image_classifier.engine.launch.preparation import prepare_run, settle_precision

EPOCHS = 7  # the first one warms up both
GROWTH = ((10_000, 12), (100_000, 4), (1_000_000, 1))  # training images, epochs
CASES = (("mlp", 128, 1.12), ("mlp", 512, 1.08), ("cnn", 128, 1.06))
TINY_NETWORK = (
    *("data=synthetic", "data.num_samples=40000", "data.val_size=0.05", "data.augmentation=null"),
    *("model=mlp", "model.net.hidden_sizes=[32]", "data.batch_size=32", "trainer.precision=32-true"),
)
REFERENCE_STEP = 441e-6  # seconds of a bare step of this network where the targets in seconds were set
SCALED = "scaled to the machine of the target"
MIXED = {"bf16-mixed": torch.bfloat16}  # of the processor, on which both run
TO_THE_END = ("callbacks.early_stopping=null",)
LIGHTNING_ALONE = (
    *("callbacks=none", "logger=none", "confusion_matrix=none", "trainer.limit_val_batches=0"),
    *(f"+trainer.enable_{part}=false" for part in ("progress_bar", "checkpointing", "model_summary")),
)


class BareLoop:
    """What the pipeline is measured against: the least that trains this network on these images."""

    def __init__(self, cfg: DictConfig, datamodule: ImageDataModule) -> None:
        self.datamodule = datamodule
        self.batch_size = cfg.data.batch_size
        recipe = assembly.recipe_of(cfg, datamodule)
        model = assembly.make_model(cfg, datamodule, recipe)
        settle_precision(cfg, model, recipe)
        self.precision = cfg.trainer.precision
        self.net = model.net
        self.channels_last = model.channels_last
        self.loss = model.loss
        self.dtype = MIXED.get(self.precision)
        if self.dtype is None and self.precision != "32-true":
            raise ValueError(f"expected one of 32-true, {', '.join(MIXED)} but found {self.precision}")
        self.generator = torch.Generator()  # of the augmentation
        self.validates = model.test_time_flip

    def use(self, optimizer: torch.optim.Optimizer) -> None:
        """Update the weights by an optimizer with the settings of another."""
        kind = type(optimizer)
        takes = inspect.signature(kind).parameters
        settings = {name: value for name, value in optimizer.defaults.items() if name in takes}
        self.optimizer = kind(self.net.parameters(), **settings)

    def epoch(self) -> None:
        indices = self.datamodule.train_indices
        self.generator.manual_seed(1)
        self.net.train()
        for batch in indices[torch.randperm(len(indices))].split(self.batch_size):
            self.step(batch)
        if self.validates:
            self.validate()

    @torch.inference_mode()
    def validate(self) -> float:
        """The accuracy on the validation images, by the mean of the logits of each image and its mirror image."""
        images, labels = self.datamodule.train_images
        indices = self.datamodule.val_indices
        self.net.eval()
        right = 0
        for batch in indices.split(self.datamodule.eval_batch_size):
            pictures = self.prepared(images[batch])
            with torch.autocast("cpu", self.dtype, enabled=self.dtype is not None):
                logits = self.net(pictures) + self.net(pictures.flip(-1))
            right += int((logits.argmax(1) == labels[batch]).sum())
        return right / len(indices)

    def prepared(self, pictures: Tensor) -> Tensor:
        pictures = normalize(pictures, self.datamodule.mean, self.datamodule.std)
        return pictures.contiguous(memory_format=torch.channels_last) if self.channels_last else pictures

    def step(self, batch: Tensor) -> None:
        images, labels = self.datamodule.train_images
        pictures = images[batch]
        if self.datamodule.augmentation is not None:
            pictures = self.datamodule.augmentation(pictures, self.generator)
        pictures = self.prepared(pictures)
        with torch.autocast("cpu", self.dtype, enabled=self.dtype is not None):
            loss = self.loss(self.net(pictures), labels[batch])
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


class Alternate(pl.Callback):
    """Runs an epoch of the bare loop before each epoch of the pipeline, and times both."""

    def __init__(self, bare: BareLoop) -> None:
        self.bare = bare
        self.pairs: list[tuple[float, float]] = []
        self.started: float | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.bare.use(trainer.optimizers[0])

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.finish()
        start = time.perf_counter()
        self.bare.epoch()
        self.bare_seconds = time.perf_counter() - start
        self.started = time.perf_counter()

    def finish(self) -> None:
        if self.started is not None:
            self.pairs.append((time.perf_counter() - self.started, self.bare_seconds))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.finish()


class EpochTimer(pl.Callback):
    """Seconds of each epoch."""

    def __init__(self) -> None:
        self.marks: list[float] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.marks.append(time.perf_counter())

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.marks.append(time.perf_counter())

    @property
    def seconds(self) -> list[float]:
        return [end - start for start, end in pairwise(self.marks)]


def fit(make_callback: Callable[[DictConfig, ImageDataModule], pl.Callback], *overrides: str) -> pl.Callback:
    """Train as `train.py` does, with one more callback, which comes first."""
    with tempfile.TemporaryDirectory() as directory, initialize_config_dir(CONFIG_DIR):
        cfg = compose("train", overrides=[*overrides, "trainer=cpu", f"paths.run_dir={directory}"])
        prepare_run(cfg)
        datamodule = assembly.make_datamodule(cfg)
        recipe = assembly.recipe_of(cfg, datamodule)
        model = assembly.make_model(cfg, datamodule, recipe)
        settle_precision(cfg, model, recipe)
        loggers = assembly.make_loggers(cfg)
        trainer = assembly.make_trainer(cfg, loggers, recipe)
        datamodule.setup("fit")
        callback = make_callback(cfg, datamodule)
        trainer.callbacks.insert(0, callback)  # type: ignore[attr-defined]
        trainer.fit(model, datamodule)
        assembly.close(loggers)
    return callback


def bare_loop(*overrides: str) -> BareLoop:
    """The bare loop over the network, images and optimizer that these overrides choose, in the pipeline's precision."""
    with tempfile.TemporaryDirectory() as directory, initialize_config_dir(CONFIG_DIR):
        cfg = compose("train", overrides=[*overrides, "trainer=cpu", f"paths.run_dir={directory}"])
        prepare_run(cfg)
        datamodule = assembly.make_datamodule(cfg)
        datamodule.setup("fit")
        loop = BareLoop(cfg, datamodule)
        loop.use(make(cfg.model.optimizer, cfg.trusted)(loop.net.parameters()))
        return loop


def slower() -> tuple[float, str]:
    """How many times as long as where the targets in seconds were set a bare step of a tiny network takes here.

    Returns:
        The factor, and how it came about in words.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a second one is of no use here
    loop = bare_loop(*TINY_NETWORK)
    steps = -(-len(loop.datamodule.train_indices) // loop.batch_size)
    step = min(seconds(loop.epoch) for _ in range(5)) / steps
    torch.set_num_threads(threads)
    factor = step / REFERENCE_STEP
    return factor, f"a bare step of 784-32-10 takes {step * 1e6:.0f} us here, {REFERENCE_STEP * 1e6:.0f} us there"


def against_bare_loop(
    model: str, batch_size: int, target: float | None, epochs: int, what: str, *overrides: str
) -> Row:
    callback = fit(
        lambda cfg, datamodule: Alternate(BareLoop(cfg, datamodule)),
        *(f"model={model}", f"data.batch_size={batch_size}", f"trainer.max_epochs={epochs}", *overrides),
    )
    assert isinstance(callback, Alternate)
    value, note = ratio(callback.pairs[1:])
    question = f"epoch of {model} at batch {batch_size}: {what} against bare loop"
    note = f"{callback.bare.precision}, {torch.get_num_threads()} threads: {note}"
    return Row(question, value, "x", target, samples=epochs - 1, note=note)


def fixed_cost(epochs: int = 30) -> list[Row]:
    """What an epoch takes beyond its steps, however many images it has."""
    small = ("data=synthetic", "data.val_size=0.05", f"data.num_samples={round(600 / 0.95 / 0.8)}")
    callback = fit(
        lambda cfg, datamodule: Alternate(BareLoop(cfg, datamodule)),
        *("model=mlp", "data.batch_size=512", f"trainer.max_epochs={epochs}", *small, *TO_THE_END),
    )
    assert isinstance(callback, Alternate)
    beyond = sorted(ours - bare for ours, bare in callback.pairs[3:])
    low, middle, high = statistics.quantiles(beyond, n=4)
    question = "epoch of mlp: beyond its steps (600 images; validation of 32, matrix, logs, checkpoints)"
    note = f"middle half {low * 1e3:.0f} to {high * 1e3:.0f} ms"
    factor, why = slower()
    return [
        Row(question, middle * 1e3, "ms", 60, samples=len(beyond), note=note),
        Row(f"{question}, {SCALED}", middle / factor * 1e3, "ms", 60, samples=len(beyond), note=why),
    ]


def growth() -> Row:
    """Training images a second at growing sizes, validation on a twentieth, logging and checkpoints included."""
    speeds = {}
    for size, epochs in GROWTH:
        callback = fit(
            lambda *_: EpochTimer(),
            *("data=synthetic", "data.val_size=0.05", f"data.num_samples={round(size / 0.95 / 0.8)}"),
            *("model=mlp", "data.batch_size=512", f"trainer.max_epochs={epochs}", *TO_THE_END),
        )
        assert isinstance(callback, EpochTimer)
        speeds[size] = size / statistics.median(callback.seconds[epochs > 1 :])  # the first one warms up
        generate_images.cache_clear()
    note = ", ".join(f"{size:,}: {speed:,.0f} images/s" for size, speed in speeds.items())
    question = "epoch of mlp at batch 512 from 10 thousand to 1 million images: fastest / slowest"
    return Row(question, max(speeds.values()) / min(speeds.values()), "x", 1.1, samples=len(GROWTH), note=note)


def main(epochs: int = EPOCHS) -> list[Row]:
    rows = [against_bare_loop(*case, epochs, "pipeline", *TO_THE_END) for case in CASES]
    alone = "Lightning without validation, callbacks and logger"
    rows += [against_bare_loop("mlp", 128, None, epochs, alone, *LIGHTNING_ALONE), *fixed_cost(), growth()]
    write_results("epoch", rows)
    return rows


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else EPOCHS)
