"""What a trainer is spared, and what it keeps."""

from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import LearningRateMonitor
from pytorch_lightning.profilers import SimpleProfiler

from image_classifier.data.synthetic import Synthetic
from image_classifier.engine.training.overhead import STEP_HOOKS, NoProfiler, reduce_overhead
from image_classifier.models.classifier import Classifier
from image_classifier.models.mlp import MLP


class Recorder(pl.Callback):
    """Notes which of its hooks are called."""

    def __init__(self) -> None:
        self.called: list[str] = []

    def on_train_batch_end(self, *args: object) -> None:
        self.called.append("on_train_batch_end")

    def on_before_optimizer_step(self, *args: object) -> None:
        self.called.append("on_before_optimizer_step")

    def on_train_epoch_end(self, *args: object) -> None:
        self.called.append("on_train_epoch_end")


class HeirRecorder(Recorder):
    """Inherits its hooks."""


def make_trainer(**settings: object) -> pl.Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return pl.Trainer(**(quiet | {"max_steps": 3, "accelerator": "cpu", "enable_model_summary": False} | settings))  # type: ignore[arg-type]


@pytest.mark.parametrize("recorder", [Recorder, HeirRecorder])
def test_hooks_that_do_something_are_called_and_the_others_are_gone(recorder: type[Recorder]) -> None:
    callback, idle = recorder(), pl.Callback()
    trainer = make_trainer(callbacks=[callback, idle])
    reduce_overhead(trainer)
    data = Synthetic(num_classes=3, num_samples=200, image_size=8, batch_size=16, val_size=0.25)
    trainer.fit(Classifier(MLP((1, 8, 8), 3, [4]), partial(torch.optim.SGD, lr=0.1)), data)
    assert callback.called == ["on_before_optimizer_step", "on_train_batch_end"] * 3 + ["on_train_epoch_end"]
    assert not any(callable(getattr(idle, hook)) for hook in STEP_HOOKS)
    assert callable(idle.on_train_epoch_end)


def test_a_profiler_that_is_asked_for_stays() -> None:
    asked, silent = make_trainer(profiler="simple"), make_trainer()
    for trainer in (asked, silent):
        reduce_overhead(trainer)
    assert isinstance(asked.profiler, SimpleProfiler)  # type: ignore[attr-defined]
    assert isinstance(silent.profiler, NoProfiler)  # type: ignore[attr-defined]


def test_callbacks_with_steps_of_their_own_keep_them() -> None:
    monitor = LearningRateMonitor()
    trainer = make_trainer(callbacks=[monitor], logger=True)
    reduce_overhead(trainer)
    assert callable(monitor.on_train_batch_start)
    assert not callable(monitor.on_after_backward)
