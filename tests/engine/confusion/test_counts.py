"""Counting pairs of true and predicted classes, against scikit-learn."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix

from image_classifier.engine.confusion.counts import ConfusionCounts


@pytest.mark.parametrize("classes", [2, 3, 10, 100])
@pytest.mark.parametrize("ignore_index", [-100, -1, 1])
@pytest.mark.parametrize("batch_size", [1, 7, 512])
def test_counts_agree_with_scikit_learn(classes: int, ignore_index: int, batch_size: int) -> None:
    generator = torch.Generator().manual_seed(classes)
    targets = torch.randint(classes, (600,), generator=generator)
    predicted = (targets * 3 + torch.randint(2, (600,), generator=generator)) % classes
    targets[::5] = ignore_index
    counts = ConfusionCounts(classes, ignore_index)
    for predicted_batch, target_batch in zip(predicted.split(batch_size), targets.split(batch_size), strict=True):
        counts.update(predicted_batch, target_batch)
    kept = targets != ignore_index
    expected = confusion_matrix(targets[kept], predicted[kept], labels=range(classes))
    np.testing.assert_array_equal(counts.compute(), expected)
    assert counts.compute().dtype == torch.int64


def test_rows_are_true_classes() -> None:
    counts = ConfusionCounts(3)
    counts.update(predicted=torch.tensor([2, 2]), targets=torch.tensor([0, 0]))
    assert counts.compute()[0, 2] == 2
    assert counts.compute().sum() == 2


def test_nothing_counted_is_all_zero() -> None:
    counts = ConfusionCounts(3)
    counts.update(torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64))
    counts.update(torch.tensor([1]), torch.tensor([-100]))
    assert not counts.compute().any()


def test_update_does_not_wait_for_the_device() -> None:
    """The meta device has no values: whatever needs one to go on fails there."""
    counts = ConfusionCounts(10).to("meta")
    counts.update(torch.zeros(8, dtype=torch.int64, device="meta"), torch.zeros(8, dtype=torch.int64, device="meta"))
    assert counts.compute().shape == (10, 10)


def test_is_a_metric_that_can_be_copied_and_reset() -> None:
    counts = ConfusionCounts(2)
    counts.update(torch.tensor([1]), torch.tensor([0]))
    assert counts.compute().sum() == 1
    copied = pickle.loads(pickle.dumps(counts))
    copied.update(torch.tensor([1]), torch.tensor([0]))
    assert (copied.compute()[0, 1], counts.compute()[0, 1]) == (2, 1)
    counts.reset()
    counts.update(torch.tensor([0]), torch.tensor([0]))
    assert counts.compute().tolist() == [[1, 0], [0, 0]]
