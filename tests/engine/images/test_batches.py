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
