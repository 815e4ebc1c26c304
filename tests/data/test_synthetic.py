"""Generated images: any number of classes, size and channels, from a seed, and learnable."""

import pytest
import torch

from image_classifier.data.synthetic import Synthetic


@pytest.mark.parametrize("num_classes", [2, 7])
@pytest.mark.parametrize(("image_size", "channels"), [(1, 1), (12, 3), (28, 2)])
def test_images_have_the_asked_for_form(num_classes: int, image_size: int, channels: int) -> None:
    datamodule = Synthetic(
        num_classes=num_classes, num_samples=200, image_size=image_size, channels=channels, batch_size=8, val_size=0.25
    )
    train, test = datamodule.load_train_images(), datamodule.load_test_images()
    assert datamodule.image_shape == (channels, image_size, image_size)
    assert train.images.shape == (160, *datamodule.image_shape) and test.images.shape == (40, *datamodule.image_shape)
    assert train.images.dtype == torch.uint8 and train.labels.dtype == torch.int64
    counts = torch.bincount(torch.cat([train.labels, test.labels]), minlength=num_classes)
    assert len(counts) == len(datamodule.class_names) == num_classes and counts.max() - counts.min() <= 1


def test_imbalance_is_the_ratio_of_the_extreme_classes() -> None:
    datamodule = Synthetic(num_classes=5, num_samples=10_000, image_size=2, imbalance=20, batch_size=8, val_size=0.25)
    counts = torch.bincount(torch.cat([datamodule.load_train_images().labels, datamodule.load_test_images().labels]))
    assert counts[0] / counts[-1] == pytest.approx(20, rel=0.02)
    assert (counts[:-1] > counts[1:]).all()


def test_images_are_a_function_of_the_seed() -> None:
    def images(seed: int) -> torch.Tensor:
        return Synthetic(num_samples=50, batch_size=8, val_size=0.25, seed=seed).load_train_images().images.clone()

    assert torch.equal(images(1), images(1)) and not torch.equal(images(1), images(2))


def test_nearest_class_mean_of_training_images_recognises_test_images() -> None:
    datamodule = Synthetic(num_classes=5, num_samples=500, image_size=8, batch_size=8, val_size=0.25)
    train, test = datamodule.load_train_images(), datamodule.load_test_images()
    means = torch.stack([train.images[train.labels == label].float().mean(0) for label in range(5)]).flatten(1)
    predicted = torch.cdist(test.images.float().flatten(1), means).argmin(1)
    assert (predicted == test.labels).float().mean() > 0.95
