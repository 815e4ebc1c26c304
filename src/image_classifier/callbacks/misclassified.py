"""A gallery of the worst mistakes: what the most confused pairs of classes look like."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor

from image_classifier.engine.images.normalization import to_pixels
from image_classifier.engine.loggers.base import log_image
from image_classifier.engine.training.stages import Outputs, StageCallback, ignored_label

THUMBNAIL = 128  # pixels; larger images are reduced before they are kept


class Candidates(NamedTuple):
    """Mistakes that may end up in the gallery, on the CPU."""

    pairs: Tensor  # (N,) int64, true class * K + predicted class
    losses: Tensor  # (N,) float32, cross-entropy
    confidences: Tensor  # (N,) float32, probability of the predicted class
    images: Tensor  # (N, C, H, W) uint8


class Misclassified(StageCallback):
    """Logs the highest-loss mistakes of the most confused pairs as the picture `misclassified/<stage>`.

    Memory is bounded: of each pair the `per_pair` mistakes with the highest loss are kept, and `capacity` of all
    pairs together. Above it (`num_classes` squared times `per_pair`), the pairs that were confused least often so
    far give way, so with very many classes a rare early mistake may be missing. In distributed runs the mistakes
    of all processes meet on each of them, and the first one draws.

    Args:
        pairs: Pairs of classes in the picture.
        per_pair: Pictures of each pair.
        capacity: Mistakes kept while the stage runs.
        stages: Any of "val" and "test".
    """

    def __init__(
        self,
        pairs: int = 5,
        per_pair: int = 5,
        *,
        capacity: int = 500,
        stages: Sequence[str] = ("test",),
    ) -> None:
        super().__init__(stages)
        self.pairs = pairs
        self.per_pair = per_pair
        self.capacity = capacity
        self.candidates: Candidates | None = None
        self.frequencies = torch.zeros(0, dtype=torch.int64)  # (K * K,) mistakes of each pair

    def start(self, stage: str, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.candidates = None
        number = len(trainer.datamodule.class_names)  # type: ignore[attr-defined]
        self.frequencies = torch.zeros(number**2, dtype=torch.int64)

    def collect(self, stage: str, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Outputs) -> None:
        """Add the mistakes of a batch."""
        images, logits, predicted, targets, _ = outputs
        wrong = ((predicted != targets) & (targets != ignored_label(pl_module))).nonzero().squeeze(1)
        pairs = (targets[wrong] * logits.shape[1] + predicted[wrong]).cpu()
        losses = F.cross_entropy(logits[wrong], targets[wrong], reduction="none").cpu()
        confidences = logits[wrong].softmax(1).amax(1).cpu()
        self.frequencies.index_add_(0, pairs, torch.ones_like(pairs))
        # Of the new mistakes only those that would survive on their own leave the device.
        kept = worst_of_each_pair(pairs, losses, self.frequencies, self.per_pair, self.capacity)
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        chosen = images[wrong[kept.to(wrong.device)]]
        pixels = thumbnails(to_pixels(chosen, datamodule.mean, datamodule.std)).cpu()
        self.merge([Candidates(pairs[kept], losses[kept], confidences[kept], pixels)])

    def merge(self, groups: Sequence[Candidates]) -> None:
        """Keep the worst of the candidates so far and of further groups."""
        everything = [self.candidates, *groups] if self.candidates is not None else groups
        together = Candidates(*(torch.cat(parts) for parts in zip(*everything, strict=True)))
        kept = worst_of_each_pair(together.pairs, together.losses, self.frequencies, self.per_pair, self.capacity)
        self.candidates = Candidates(*(values[kept] for values in together))

    def finish(self, stage: str, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.world_size > 1:
            self.gather(trainer)
        if trainer.is_global_zero and self.candidates is not None and len(self.candidates.pairs):
            log_image(trainer, f"misclassified/{stage}", self.draw(stage, trainer), trainer.global_step)

    def gather(self, trainer: pl.Trainer) -> None:
        """Bring the mistakes of all processes together."""
        everyone: list[Any] = [None] * trainer.world_size
        torch.distributed.all_gather_object(everyone, (self.frequencies, self.candidates))
        self.frequencies = torch.stack([frequencies for frequencies, _ in everyone]).sum(0)
        groups = [candidates for _, candidates in everyone if candidates is not None]
        self.candidates = None
        if groups:
            self.merge(groups)

    def draw(self, stage: str, trainer: pl.Trainer) -> np.ndarray:
        from image_classifier.engine.figures.image_grid import draw_image_grid, shorten

        assert self.candidates is not None
        names = [shorten(name) for name in trainer.datamodule.class_names]  # type: ignore[attr-defined]
        shown = self.most_frequent()
        titles = []
        for pair, confidence in zip(shown.pairs.tolist(), shown.confidences.tolist(), strict=True):
            true, predicted = divmod(pair, len(names))
            titles.append(f"true: {names[true]}\npredicted: {names[predicted]}\nconfidence: {confidence:.1%}")
        heading = f"{stage}: the worst mistakes of the most confused pairs of classes"
        return draw_image_grid(shown.images, titles, self.per_pair, heading, width=175)

    def most_frequent(self) -> Candidates:
        """The candidates of the most frequent pairs, pair by pair, the highest loss first."""
        assert self.candidates is not None
        ranking = self.frequencies.argsort(descending=True, stable=True)[: self.pairs]
        chosen = [(self.candidates.pairs == pair).nonzero().squeeze(1) for pair in ranking]
        by_loss = [rows[self.candidates.losses[rows].argsort(descending=True)] for rows in chosen]
        return Candidates(*(values[torch.cat(by_loss)] for values in self.candidates))


def worst_of_each_pair(pairs: Tensor, losses: Tensor, frequencies: Tensor, per_pair: int, capacity: int) -> Tensor:
    """Choose the mistakes to keep.

    Args:
        pairs: (N,) int64.
        losses: (N,) float.
        frequencies: Mistakes of each pair so far.
        per_pair: At most so many of each pair, those with the highest loss.
        capacity: At most so many in all, those of the most frequent pairs.

    Returns:
        Their positions, int64.
    """
    order = losses.argsort(descending=True, stable=True)
    order = order[pairs[order].argsort(stable=True)]  # pair by pair, the highest loss first
    grouped = pairs[order]
    rank = torch.arange(len(order)) - torch.searchsorted(grouped, grouped)  # within its pair
    kept = order[rank < per_pair]
    if len(kept) > capacity:
        kept = kept[frequencies[pairs[kept]].argsort(descending=True, stable=True)[:capacity]]
    return kept


def thumbnails(images: Tensor) -> Tensor:
    """Reduce (B, C, H, W) uint8 images whose longer side is above `THUMBNAIL` pixels."""
    height, width = images.shape[-2:]
    longer = max(height, width)
    if longer <= THUMBNAIL or not len(images):
        return images
    size = (max(1, height * THUMBNAIL // longer), max(1, width * THUMBNAIL // longer))
    return F.interpolate(images.float(), size, mode="area").round().byte()
