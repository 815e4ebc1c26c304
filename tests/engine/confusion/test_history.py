import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from image_classifier.engine.confusion.history import MatrixHistory


def labels(seed: int, classes: int, samples: int = 400) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.integers(0, classes, samples), generator.integers(0, classes, samples)


def dense(history: MatrixHistory, epoch: int) -> np.ndarray:
    cells, counts = history.matrices[epoch]
    full = np.zeros(history.num_classes**2, dtype=np.int64)
    full[cells] = counts
    return full.reshape(history.num_classes, history.num_classes)


@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_every_epoch_comes_back_from_a_file(classes: int) -> None:
    history = MatrixHistory(classes)
    for epoch in (1, 2, 3):
        history.add(epoch, *labels(epoch, classes))
    read = MatrixHistory.from_bytes(history.to_bytes())
    assert list(read.matrices) == [1, 2, 3]
    for epoch in (1, 2, 3):
        expected = confusion_matrix(*labels(epoch, classes), labels=range(classes))
        assert np.array_equal(dense(read, epoch), expected)


def test_a_resumed_epoch_replaces_what_came_after_it() -> None:
    history = MatrixHistory(3)
    for epoch in (1, 2, 3, 4):
        history.add(epoch, *labels(epoch, 3))
    history.add(3, *labels(33, 3))
    assert list(history.matrices) == [1, 2, 3]
    assert np.array_equal(dense(history, 3), confusion_matrix(*labels(33, 3)))


def test_epochs_are_thinned_out_evenly_and_the_last_stays() -> None:
    history = MatrixHistory(10, cell_limit=1000)  # a matrix has at most 100 cells
    for epoch in range(1, 42):
        history.add(epoch, *labels(epoch, 10, samples=5000))
        assert epoch in history.matrices
        assert sum(len(cells) for cells, _ in history.matrices.values()) <= 1000
    assert history.every == 8
    assert list(history.matrices) == [8, 16, 24, 32, 40, 41]


def test_none_is_kept_and_read() -> None:
    assert MatrixHistory.from_bytes(MatrixHistory(5).to_bytes()).matrices == {}
