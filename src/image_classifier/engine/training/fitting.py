"""Training and testing with a trainer, and the final metrics of both."""

import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from image_classifier.engine.errors import UserError
from image_classifier.engine.runs.results import Results
from image_classifier.engine.training.best_checkpoint import BestCheckpoint, checkpoint_of_run
from image_classifier.engine.training.checkpoint_contents import training_metrics


def fit(
    trainer: pl.Trainer,
    model: pl.LightningModule,
    datamodule: pl.LightningDataModule,
    results: Results,
    ckpt_path: str | None = None,
) -> dict[str, float]:
    """Train, resuming from a checkpoint if one is given.

    Args:
        results: Takes the validation counts of the best checkpoint, which is shown to those in `of_best`.

    Returns:
        The validation metrics of the best checkpoint, the last training metrics, epochs and seconds.
    """
    start = time.perf_counter()
    try:
        trainer.fit(model, datamodule, ckpt_path=ckpt_path, weights_only=True)
    except (ValueError, MisconfigurationException) as error:
        raise told(error) from error
    epochs = trainer.current_epoch
    metrics: dict[str, float] = {}
    if ckpt_path:
        resumed = torch.load(ckpt_path, map_location="cpu", weights_only=True, mmap=True)
        metrics |= {name: digits(value) for name, value in training_metrics(resumed).items()}
    metrics |= epoch_metrics(trainer, "train/", "val/")
    checkpoint = checkpoint_of_run(trainer)
    if may_choose(trainer, checkpoint) and not checkpoint.has_seen(trainer, model):
        # The last epoch had no validation, or the weights were averaged at the very end.
        trainer.validate(model, datamodule, verbose=False)
        metrics |= epoch_metrics(trainer, "val/")
        checkpoint.consider(trainer)
    seconds = time.perf_counter() - start
    if best := best_checkpoint(trainer):
        saved = torch.load(best, map_location="cpu", weights_only=True, mmap=True)
        metrics |= {name: digits(value) for name, value in saved["metrics"].items()}
        if saved.get("counts") is not None:
            results.counts["val"] = saved["counts"].long()
        for take in results.of_best:
            take(trainer, saved)
    return metrics | {"epochs": epochs, "fit_seconds": round(seconds, 3)}


def resume_between_epochs(trainer: pl.Trainer) -> None:
    """Have a training of so many steps, resumed from the end of an epoch, go on with the next.

    Lightning takes any resume under `max_steps` for one inside an epoch: it ends the epoch once more, in which it may
    train one batch more, and reads the next in the order of the one after it.
    """
    trainer.fit_loop._iteration_based_training = counts_epochs  # type: ignore[method-assign]


def counts_epochs() -> bool:
    """What `_FitLoop._iteration_based_training` says of a training that counts epochs. All that it decides is this."""
    return False


def told(error: Exception) -> Exception:
    """An error of torch or Lightning for a setting, in the words of the setting; any other stays itself."""
    message = str(error)
    if "more than 1 value per channel" in message:
        return UserError(
            "expected at least two images a batch, because the network has batch normalisation, but found one; "
            "for example data.batch_size=2"
        )
    if "closure hasn't been executed" in message:
        return UserError(
            "expected model.optimizer to call the closure that its step is given, which computes the gradients, "
            "but found that it does not: its step begins with `loss = closure()`"
        )
    if "val_check_interval" in message:
        return UserError(
            f"expected trainer.val_check_interval to fit the training but found: {' '.join(message.split())}"
        )
    return error


def test(trainer: pl.Trainer, model: pl.LightningModule, datamodule: pl.LightningDataModule) -> dict[str, float]:
    """Test the best checkpoint of the run, or the model as it is when the run has none."""
    if best := best_checkpoint(trainer):
        # Not by `trainer.test(ckpt_path=...)`: there a callback that averages weights puts the others in their place.
        model.load_state_dict(torch.load(best, map_location="cpu", weights_only=True, mmap=True)["state_dict"])
    trainer.test(model, datamodule, verbose=False)
    return epoch_metrics(trainer, "test/")


def may_choose(trainer: pl.Trainer, checkpoint: Any) -> bool:
    """Whether the run keeps its best weights by a metric."""
    fast: Any = trainer.fast_dev_run  # type: ignore[attr-defined]
    return isinstance(checkpoint, BestCheckpoint) and checkpoint.monitor is not None and not fast


def best_checkpoint(trainer: pl.Trainer) -> Path | None:
    checkpoint = checkpoint_of_run(trainer)
    if isinstance(checkpoint, BestCheckpoint):
        return checkpoint.best_path
    best = isinstance(checkpoint, ModelCheckpoint) and checkpoint.best_model_path
    return Path(best) if best else None


def epoch_metrics(trainer: pl.Trainer, *prefixes: str) -> dict[str, float]:
    """The epoch's metrics as plain numbers."""
    return {
        name: digits(float(value))
        for name, value in trainer.callback_metrics.items()
        if name.startswith(prefixes) and not name.endswith("_step")
    }


def digits(value: float) -> float:
    """A number with the seven digits that float32 holds."""
    return float(f"{value:.7g}")
