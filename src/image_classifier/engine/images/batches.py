"""Which samples form which batch, and the loader that serves whole batches from memory."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor


class ImageSet(NamedTuple):
    """Decoded images and their labels."""

    images: Tensor  # (N, C, H, W) uint8
    labels: Tensor  # (N,) int64


class EpochBatches:
    """The batches of one epoch as index tensors, sharded by rank so that every sample is met exactly once.

    Each global batch of `world_size * batch_size` samples is dealt out to the ranks, so N processes together
    step on what one process with N times the batch size would step on. A remainder with fewer than two
    samples a rank joins the batch before it: every rank has the same number of batches, none of them empty,
    and BatchNorm never meets a single sample.

    Args:
        indices: (N,) int64, the samples to serve.
        batch_size: Samples a batch and rank.
        shuffle: Draw a new order every epoch, a function of `seed` and the epoch only.
        balanced_by: (N,) int64 labels of the samples; given, each shuffled epoch draws N samples, each class equally
            often, instead of every sample once.
        seed: Seed of the order.
        rank: This process.
        world_size: Number of processes.

    Raises:
        ValueError: There are fewer samples than processes.
    """

    def __init__(
        self,
        indices: Tensor,
        batch_size: int,
        *,
        shuffle: bool,
        balanced_by: Tensor | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if len(indices) < world_size:
            raise ValueError(f"Expected at least one sample for each of {world_size} processes but got {len(indices)}")
        self.indices = indices
        self.shuffle = shuffle
        self.balanced_by = balanced_by
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self.first_batch = 0  # where the next iteration starts: not 0 after a resume inside an epoch
        self.taken: int | None = None  # batches of an epoch that the trainer takes; None for all
        self.global_batch_size = batch_size * world_size
        self.sampler = self  # Lightning calls `loader.batch_sampler.sampler.set_epoch`

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def next_after(self, batches_served: int) -> int:
        """The batch to go on with; the first one, where the epoch has come to its end."""
        return batches_served if batches_served < (len(self) if self.taken is None else self.taken) else 0

    def __len__(self) -> int:
        full, remainder = divmod(len(self.indices), self.global_batch_size)
        return max(1, full + (remainder >= 2 * self.world_size))

    def __iter__(self) -> Iterator[Tensor]:
        order = self.indices
        if self.shuffle:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
            if self.balanced_by is None:
                chosen = torch.randperm(len(order), generator=generator)
            else:
                chosen = balanced_draw(self.balanced_by, generator)
            order = order[chosen.to(order.device)]
        number_of_batches = len(self)
        first, self.first_batch = self.first_batch, 0
        for batch in range(first, number_of_batches):
            start = batch * self.global_batch_size
            end = len(order) if batch == number_of_batches - 1 else start + self.global_batch_size
            yield order[start + self.rank : end : self.world_size]


def balanced_draw(labels: Tensor, generator: Generator) -> Tensor:
    """Draw as many samples as there are, each class equally often (to one sample) and each of its samples, too.

    Args:
        labels: (N,) int64; samples with a label below 0 are not drawn, unless all are such.
        generator: Source of randomness, on the CPU.

    Returns:
        (N,) int64 positions in random order.
    """
    known = labels >= 0
    labels = torch.where(known, labels, labels.max() + 1) if known.any() else labels - labels.min()
    by_class = labels.argsort(stable=True).split(torch.bincount(labels).tolist())
    members = [part for part in by_class if len(part) and known[part[0]] == known.any()]
    quota = torch.full((len(members),), len(labels) // len(members))
    quota[torch.randperm(len(members), generator=generator)[: len(labels) % len(members)]] += 1
    drawn = []
    for part, number in zip(members, quota.tolist(), strict=True):
        rounds = [torch.randperm(len(part), generator=generator) for _ in range(-(-number // len(part)))]
        drawn.append(part[torch.cat(rounds)[:number]])
    together = torch.cat(drawn)
    return together[torch.randperm(len(together), generator=generator)]


class InMemoryLoader:
    """Serves whole batches by one index operation from images that lie in memory; no per-sample Python.

    Sized, and restored inside an epoch through `state_dict` / `load_state_dict`.

    Args:
        data: Images and labels, on any device; batches come out on the same one.
        batches: The index tensors to serve.
    """

    def __init__(self, data: ImageSet, batches: EpochBatches) -> None:
        self.data = data
        self.batch_sampler = batches
        self.batches_served = 0

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.batches_served = self.batch_sampler.first_batch
        images, labels = self.data
        for indices in self.batch_sampler:
            self.batches_served += 1  # before the yield: nothing after the last one is ever run
            yield images[indices], labels[indices]  # (B, C, H, W) uint8, (B,) int64

    def state_dict(self) -> dict[str, Any]:
        return {"batches_served": self.batch_sampler.next_after(self.batches_served)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.batch_sampler.first_batch = self.batch_sampler.next_after(state["batches_served"])
