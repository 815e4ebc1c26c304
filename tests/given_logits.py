"""A test run in which each image holds its own logits, so that a test knows every prediction."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from image_classifier.data.datamodule import ImageDataModule
from image_classifier.engine.images.batches import ImageSet
from image_classifier.engine.training.metrics import EpochMetrics
from image_classifier.models.classifier import Classifier


class LogitImages(ImageDataModule):
    """Images of one row with a pixel for each class. Normalised by mean 0 and 1/255, a pixel is its own value."""

    def __init__(self, logits: Tensor, targets: Tensor, class_names: Sequence[str], batch_size: int) -> None:
        super().__init__(batch_size=2, eval_batch_size=batch_size, val_size=0.5, mean=[0.0], std=[1 / 255])
        self.class_names = tuple(class_names)
        self.image_shape = (1, 1, len(class_names))
        self.samples = ImageSet(logits.byte()[:, None, None, :], targets)

    def load_train_images(self) -> ImageSet:
        return self.samples

    def load_test_images(self) -> ImageSet:
        return self.samples


@pytest.fixture
def run_test(tmp_path: Path) -> Callable[..., pl.Trainer]:
    """Test a classifier whose logits (N, K), whole numbers from 0 to 255, are given; returns the trainer."""

    def run(
        logits: Tensor,
        targets: Tensor,
        *callbacks: pl.Callback,
        class_names: Sequence[str] = (),
        batch_size: int = 64,
        ignore_index: int = -100,
        without_metrics: bool = False,
        **settings: object,
    ) -> pl.Trainer:
        names = class_names or [f"class {index}" for index in range(logits.shape[1])]
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        model = Classifier(nn.Flatten(), torch.optim.SGD, ignore_index=ignore_index)
        trainer = pl.Trainer(
            accelerator="cpu",
            default_root_dir=tmp_path,
            callbacks=[*callbacks] if without_metrics else [EpochMetrics(), *callbacks],
            use_distributed_sampler=False,
            **{**quiet, **settings},  # type: ignore[arg-type]
        )
        trainer.test(model, datamodule=LogitImages(logits, targets, names, batch_size), verbose=False)
        return trainer

    return run
