"""What every data set has to hold. A test of a new one inherits it: see docs/extending.md."""

from pathlib import Path
from typing import Any

import pytest
import torch

from image_classifier import pipeline
from image_classifier.engine.checkpoint import load_run
from image_classifier.engine.launch import assembly
from network_tests import compose_run


class DataTests:
    """Inherit, and say in `overrides` which data set it is; a few hundred images are enough."""

    overrides: tuple[str, ...]

    def make(self, directory: Path) -> Any:
        """The data set as it is served."""
        datamodule = assembly.make_datamodule(compose_run(directory, data=self.overrides))
        for stage in ("fit", "test"):
            datamodule.setup(stage)
        return datamodule

    @pytest.fixture
    def datamodule(self, tmp_path: Path) -> Any:
        return self.make(tmp_path)

    def test_batches_are_images_with_their_classes(self, datamodule: Any) -> None:
        for stage in ("train", "val", "test"):
            images, labels = next(iter(getattr(datamodule, f"{stage}_dataloader")()))
            assert images.shape == (len(labels), *datamodule.image_shape) and images.dtype == torch.uint8, stage
            assert labels.dtype == torch.int64 and labels.min() >= 0 and labels.max() < datamodule.num_classes, stage

    def test_each_image_is_either_trained_on_or_held_out(self, datamodule: Any) -> None:
        parts = torch.cat([datamodule.train_indices, datamodule.val_indices])
        assert sorted(parts.tolist()) == list(range(len(datamodule.training_labels())))
        assert len(datamodule.train_indices) and len(datamodule.val_indices)
        counts = torch.bincount(datamodule.training_labels()[datamodule.train_indices])
        assert counts.tolist() == datamodule.class_counts().tolist()

    def test_a_seed_repeats_split_and_pixels(self, datamodule: Any, tmp_path: Path) -> None:
        again = self.make(tmp_path)
        assert torch.equal(datamodule.val_indices, again.val_indices)
        for stage in ("val", "test"):
            first, second = (next(iter(getattr(data, f"{stage}_dataloader")())) for data in (datamodule, again))
            assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1]), stage

    def test_it_trains_and_the_checkpoint_alone_finds_it_again(self, datamodule: Any, tmp_path: Path) -> None:
        cfg = compose_run(tmp_path / "run", "trainer.max_epochs=1", data=self.overrides)
        pipeline.train(cfg)
        model, data = load_run(str(tmp_path / "run" / "checkpoints" / "best.ckpt"))
        data.setup("test")
        assert data.class_names == datamodule.class_names
        images, labels = next(iter(data.test_dataloader()))
        expected, known = next(iter(datamodule.test_dataloader()))
        assert torch.equal(images, expected) and torch.equal(labels, known)
        logits = model.eval()(data.on_after_batch_transfer((images, labels), 0)[0])
        assert logits.shape == (len(labels), data.num_classes)
