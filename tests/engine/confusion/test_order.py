import numpy as np
import pytest

from image_classifier.engine.confusion.order import similarity_order


@pytest.mark.parametrize("size", [12, 300])
def test_confused_classes_stand_side_by_side(size: int) -> None:
    generator = np.random.default_rng(0)
    groups = generator.permutation(np.arange(size) % (size // 4))  # blocks of four, mixed
    counts = np.diag(np.full(size, 50))
    counts += 10 * (groups[:, None] == groups[None, :])
    counts[generator.integers(0, size, size), generator.integers(0, size, size)] += 1  # noise between them
    order = similarity_order(counts)
    assert sorted(order) == list(range(size))
    blocks = groups[order]
    changes = int((blocks[1:] != blocks[:-1]).sum())
    assert changes == size // 4 - 1  # each block is in one piece


def test_what_is_never_confused_stays_as_given() -> None:
    assert similarity_order(np.diag([3, 0, 5, 1])) == [0, 1, 2, 3]
    counts = np.diag([9, 9, 9, 9])
    counts[3, 1] = 2
    assert sorted(similarity_order(counts)[:2]) == [1, 3]
    assert similarity_order(counts)[2:] == [0, 2]
