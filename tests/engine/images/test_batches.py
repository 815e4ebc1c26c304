"""Every sample exactly once, the same on any number of processes, and repeatable from any point."""

import pytest
import torch
from torch import Tensor

from image_classifier.engine.images.batches import EpochBatches, ImageSet, InMemoryLoader

# (samples, batch size): no remainder, remainder of 1, a large one, fewer samples than a batch, one sample.
SIZES = [(24, 4), (25, 4), (27, 4), (31, 7), (5, 100), (1, 1), (2, 1), (9, 1)]


def ranks(samples: int, batch_size: int, world_size: int, shuffle: bool = True, epoch: int = 0) -> list[list[Tensor]]:
    """The batches of each process."""
    indices = torch.arange(samples) + 1000
    found = []
    for rank in range(world_size):
        batches = EpochBatches(indices, batch_size, shuffle=shuffle, seed=3, rank=rank, world_size=world_size)
        batches.set_epoch(epoch)
        found.append(list(batches))
        assert len(found[-1]) == len(batches)
    return found


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize(("samples", "batch_size"), SIZES)
def test_every_sample_is_met_exactly_once(samples: int, batch_size: int, world_size: int, shuffle: bool) -> None:
    if samples < world_size:
        with pytest.raises(ValueError, match="at least one sample"):
            ranks(samples, batch_size, world_size)
        return
    found = ranks(samples, batch_size, world_size, shuffle)
    assert len({len(batches) for batches in found}) == 1  # as many steps on every process
    met = torch.cat([batch for batches in found for batch in batches])
    assert torch.equal(met.sort().values, torch.arange(samples) + 1000)
    assert min(len(batch) for batches in found for batch in batches) > 0


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize(("samples", "batch_size"), [(24, 2), (25, 2), (41, 3), (37, 5)])
def test_processes_together_step_on_the_batches_of_one(samples: int, batch_size: int, world_size: int) -> None:
    together = ranks(samples, batch_size, world_size)
    alone = ranks(samples, batch_size * world_size, 1)[0]
    for step, shares in enumerate(zip(*together, strict=True)):
        union = torch.cat(shares).sort().values
        covered = torch.cat(alone[step:]) if step == len(together[0]) - 1 else alone[step]
        assert torch.equal(union, covered.sort().values)


@pytest.mark.parametrize(
    ("samples", "batch_size", "world_size", "last_sizes"),
    [
        (24, 4, 1, [4]),
        (25, 4, 1, [5]),  # a single sample joins the batch before it
        (26, 4, 1, [2]),
        (27, 4, 2, [6, 5]),  # 3 left for 2 processes: fewer than two each
        (28, 4, 2, [2, 2]),
        (3, 4, 1, [3]),
    ],
)
def test_a_remainder_that_is_too_small_joins_the_batch_before_it(
    samples: int, batch_size: int, world_size: int, last_sizes: list[int]
) -> None:
    assert [len(batches[-1]) for batches in ranks(samples, batch_size, world_size)] == last_sizes


def test_order_is_a_function_of_seed_and_epoch() -> None:
    def order(seed: int, epoch: int, shuffle: bool = True) -> list[int]:
        batches = EpochBatches(torch.arange(50), 8, shuffle=shuffle, seed=seed)
        batches.set_epoch(epoch)
        return torch.cat(list(batches)).tolist()

    assert order(1, 0) == order(1, 0)
    assert len({tuple(order(seed, epoch)) for seed in (1, 2) for epoch in (0, 1, 2)}) == 6
    assert order(1, 0, shuffle=False) == order(2, 5, shuffle=False) == list(range(50))


@pytest.fixture
def data() -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    return ImageSet(torch.randint(256, (23, 2, 3, 4), generator=generator, dtype=torch.uint8), torch.arange(23))


def test_loader_serves_images_with_their_own_labels(data: ImageSet) -> None:
    for images, labels in InMemoryLoader(data, EpochBatches(torch.arange(5, 20), 4, shuffle=True)):
        assert images.dtype == torch.uint8 and labels.dtype == torch.int64
        assert torch.equal(images, torch.stack([data.images[label] for label in labels]))
        assert labels.min() >= 5 and labels.max() < 20


@pytest.mark.parametrize("served", range(7))  # 6 batches: from untouched to finished
def test_restored_loader_goes_on_with_the_next_batch(data: ImageSet, served: int) -> None:
    def loader() -> InMemoryLoader:
        made = InMemoryLoader(data, EpochBatches(torch.arange(23), 4, shuffle=True, seed=5))
        made.batch_sampler.set_epoch(2)
        return made

    whole = [labels.tolist() for _, labels in loader()]
    first, rest = loader(), loader()
    iterator = iter(first)
    for _ in range(served):
        next(iterator)
    rest.load_state_dict(first.state_dict())
    assert [labels.tolist() for _, labels in rest] == (whole[served:] or whole)  # a finished epoch: the next one
    assert [labels.tolist() for _, labels in rest] == whole  # only the epoch that was cut short starts late
    assert len(rest) == 6


def balanced(labels: Tensor, batch_size: int, world_size: int = 1, epoch: int = 0) -> list[list[Tensor]]:
    """The batches of each process, as positions in the labels."""
    found = []
    for rank in range(world_size):
        batches = EpochBatches(
            torch.arange(len(labels)) + 1000,
            batch_size,
            shuffle=True,
            balanced_by=labels,
            seed=3,
            rank=rank,
            world_size=world_size,
        )
        batches.set_epoch(epoch)
        found.append([batch - 1000 for batch in batches])
    return found


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("sizes", [[50, 5, 1], [7, 7, 7], [100, 3], [1, 1, 1, 20], [6]])
def test_balanced_epochs_hold_each_class_equally_often_over_all_processes(sizes: list[int], world_size: int) -> None:
    labels = torch.repeat_interleave(torch.arange(len(sizes)) * 2, torch.tensor(sizes))
    for epoch in range(3):
        drawn = torch.cat([batch for batches in balanced(labels, 4, world_size, epoch) for batch in batches])
        assert len(drawn) == len(labels)
        counts = torch.bincount(labels[drawn])[::2]
        assert int(counts.max() - counts.min()) <= 1
        for label in labels.unique():  # within a class each sample is met equally often
            members = torch.bincount(drawn[labels[drawn] == label], minlength=len(labels))[labels == label]
            assert int(members.max() - members.min()) <= 1


def test_balanced_epochs_differ_and_repeat() -> None:
    labels = torch.arange(60) % 7 // 3
    first, again, other = (torch.cat(balanced(labels, 4, 1, epoch)[0]) for epoch in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    rare = [set(torch.cat(balanced(torch.arange(60) // 50, 4, 1, epoch)[0]).tolist()) for epoch in range(8)]
    assert set.union(*rare) == set(range(60))  # over the epochs all are met


def test_samples_without_a_label_are_not_drawn() -> None:
    labels = torch.tensor([-100] * 30 + [0] * 5 + [1])
    drawn = torch.cat(balanced(labels, 4)[0])
    assert len(drawn) == 36 and torch.bincount(labels[drawn]).tolist() == [18, 18]
    assert len(torch.cat(balanced(torch.full((9,), -100), 4)[0])) == 9


def test_balanced_processes_together_step_on_the_batches_of_one() -> None:
    labels = torch.arange(48) // 40
    together, alone = balanced(labels, 4, 2), balanced(labels, 8, 1)[0]
    for first, second, both in zip(*together, alone, strict=True):
        assert torch.equal(torch.cat([first, second]).sort().values, both.sort().values)
