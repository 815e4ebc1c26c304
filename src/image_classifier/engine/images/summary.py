"""What a data set holds, told before a training: classes, sizes, what was skipped, duplicates, and what looks wrong."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from torch import Tensor

from image_classifier.engine.images.pictures import Facts
from image_classifier.engine.images.reading import digest
from image_classifier.engine.terminal import say
from image_classifier.engine.terminal_tables import Table, console, name

FEW = 20  # training images of a class: below, its figures are mostly chance
IMBALANCE = 10  # largest class : smallest class
CLASSES_SHOWN = 20
LISTED = 100  # groups of the same picture
NAMED = 3  # examples in a line


@dataclass
class DataSummary:
    """What is known of a data set before a training.

    Attributes:
        source: Where the images come from.
        class_names: K names.
        counts: Images of each class, by part ("train", "val", "test").
        unlabelled: Images without a label, by part.
        image_shape: Channels, height and width that the network sees.
        split: How each part was chosen, in words.
        form: How pictures are brought to that shape: `fit` and `background`.
        normalisation: `mean` and `std` per channel, and where they are `from`.
        memory: `bytes` of all decoded images, and `where` they lie.
        sizes: Width and height of the `smallest`, the `median` and the `largest` picture, and how many are `different`.
        modes: Pictures of each of Pillow's modes.
        skipped: Files that are no pictures, by reason.
        unreadable: Pictures that are left out: `picture` and `reason`.
        duplicates: The same content in two parts: groups of names; the first `LISTED`.
        duplicated: How many groups there are.
        conflicts: The same content in two classes: groups of names; the first `LISTED`.
    """

    source: str
    class_names: Sequence[str]
    counts: Mapping[str, list[int]]
    image_shape: Sequence[int]
    normalisation: Mapping[str, Any]
    memory: Mapping[str, Any]
    split: Mapping[str, str] = field(default_factory=dict)
    unlabelled: Mapping[str, int] = field(default_factory=dict)
    form: Mapping[str, str] = field(default_factory=dict)
    sizes: Mapping[str, Any] = field(default_factory=dict)
    modes: Mapping[str, int] = field(default_factory=dict)
    skipped: Mapping[str, int] = field(default_factory=dict)
    unreadable: Sequence[Mapping[str, str]] = ()
    duplicates: Sequence[Sequence[str]] = ()
    duplicated: int = 0
    conflicts: Sequence[Sequence[str]] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain containers, with the warnings and what else is told in sentences."""
        skipped = ", ".join(f"{count} {reason}" for reason, count in self.skipped.items())
        content = asdict(self) | {
            "warnings": [*told_before(self), *warnings(self)],
            "lines": [*lines(self), *([f"Skipped: {skipped}"] if skipped else [])],
        }
        content["classes"] = {
            name: {part: counts[label] for part, counts in self.counts.items()}
            for label, name in enumerate(self.class_names)
        }
        del content["class_names"], content["counts"]
        return content


def told_before(summary: DataSummary) -> list[str]:
    """What was told when the images were read, in sentences: classes without images, and what cannot be decoded."""
    missing = {
        part: [name for name, count in zip(summary.class_names, counts, strict=True) if not count]
        for part, counts in summary.counts.items()
    }
    found = [f"no images of {listed(names)} in {part}" for part, names in missing.items() if names]
    if summary.unreadable:
        found.append(left_out([f"{bad['picture']} ({bad['reason']})" for bad in summary.unreadable]))
    return found


def left_out(pictures: Sequence[str]) -> str:
    """That pictures cannot be decoded, in a sentence."""
    verb = "is" if len(pictures) == 1 else "are"
    return f"{count_of(len(pictures), 'picture')} cannot be decoded and {verb} left out: {listed(pictures)}"


def warnings(summary: DataSummary) -> list[str]:
    """What else should be looked at, in sentences."""
    found = []
    training = dict(zip(summary.class_names, summary.counts.get("train", []), strict=False))
    if few := [f"{name} ({count})" for name, count in training.items() if 0 < count < FEW]:
        found.append(f"few training images of {listed(few)}: below {FEW}, the figures of a class are mostly chance")
    present = {name: count for name, count in training.items() if count}
    if present and max(present.values()) >= IMBALANCE * min(present.values()):
        most, least = max(present, key=present.__getitem__), min(present, key=present.__getitem__)
        found.append(
            f"{present[most] / present[least]:.0f} times more training images of {most} than of {least}; "
            "data.sampling=balanced shows each class equally often"
        )
    if summary.duplicated:
        found.append(
            f"{count_of(summary.duplicated, 'image')} in two parts of the data, such as "
            f"{' = '.join(summary.duplicates[0])}: the figures look better than they are"
        )
    if summary.conflicts:
        found.append(
            f"the same image in two classes, {count_of(len(summary.conflicts), 'time')}, such as "
            f"{' = '.join(summary.conflicts[0])}"
        )
    return found


def listed(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED + 1 else ""
    return ", ".join(names[: NAMED if more else None]) + more


def count_of(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


def class_counts(labels: Tensor, number: int) -> list[int]:
    """Images of each of so many classes; labels below 0 do not count."""
    return torch.bincount(labels[labels >= 0], minlength=number).tolist()


def sizes_and_modes(facts: Sequence[Facts | None]) -> tuple[dict[str, Any], dict[str, int]]:
    """The `sizes` and `modes` of a summary; pictures that cannot be decoded do not count."""
    known = [fact for fact in facts if fact is not None]
    if not known:
        return {}, {}
    sizes = sorted(((fact.width, fact.height) for fact in known), key=lambda size: (size[0] * size[1], size))
    described = {"smallest": sizes[0], "median": sizes[len(sizes) // 2], "largest": sizes[-1]}
    modes = Counter(fact.mode for fact in known)
    return {name: list(size) for name, size in described.items()} | {"different": len(set(sizes))}, dict(
        modes.most_common()
    )


def image_digests(images: Tensor) -> np.ndarray:
    """(N,) uint64 hashes of the pixels of (N, C, H, W) uint8 images."""
    hashes = np.empty(len(images), dtype=np.uint64)
    for start in range(0, len(images), 10_000):  # in pieces, for images on a GPU
        rows = images[start : start + 10_000].cpu().contiguous().flatten(1).numpy()
        hashes[start : start + len(rows)] = [digest(row) for row in rows]
    return hashes


def same_content(
    digests: np.ndarray, groups: np.ndarray, name: Callable[[int], str] = str
) -> tuple[list[list[str]], int]:
    """Images with the same content that lie in different groups (parts of the data, or classes).

    Args:
        digests: (N,) hashes of content; 0 where it is not known.
        groups: (N,) int, the group of each.
        name: How an image is called, by its index.

    Returns:
        The first `LISTED` sets of names, and how many there are.
    """
    order = np.argsort(digests, kind="stable")
    order = order[digests[order] != 0]
    if not len(order):
        return [], 0
    starts = np.flatnonzero(np.diff(digests[order], prepend=~digests[order[:1]]))
    lowest = np.minimum.reduceat(groups[order], starts)
    highest = np.maximum.reduceat(groups[order], starts)
    ends = np.append(starts[1:], len(order))
    mixed = np.flatnonzero(lowest != highest)
    by_first = sorted(mixed, key=lambda found: order[starts[found]])
    sets = [order[starts[found] : ends[found]].tolist() for found in by_first[:LISTED]]
    return [[name(index) for index in same] for same in sets], len(mixed)


def print_summary(summary: DataSummary) -> None:
    """Show a summary on the terminal."""
    terminal = console()
    terminal.print(name(f"Data: {summary.source}", "italic"), soft_wrap=True)
    terminal.print(class_table(summary))
    for line in lines(summary):
        say(line)
    for warning in warnings(summary):  # the others were told when the images were read
        terminal.print(name(f"warning: {warning}", "yellow"), soft_wrap=True)


def class_table(summary: DataSummary) -> Table:
    """Images of each class in each part; of many classes the largest and the smallest."""
    parts = list(summary.counts)
    table = Table(None, ["class"], numbers=parts)
    labels = list(range(len(summary.class_names)))
    if len(labels) > CLASSES_SHOWN:
        labels.sort(key=lambda label: -summary.counts[parts[0]][label])
    half = CLASSES_SHOWN // 2
    for position, label in enumerate(labels):
        if len(labels) <= CLASSES_SHOWN or position < half or position >= len(labels) - half:
            counts = [str(summary.counts[part][label]) for part in parts]
            table.add_row(summary.class_names[label], *counts)
        elif position == half:
            table.add_row(f"... {len(labels) - CLASSES_SHOWN} more", *[""] * len(parts))
    table.add_section()
    table.add_row("all", *(str(sum(summary.counts[part])) for part in parts))
    return table


def lines(summary: DataSummary) -> list[str]:
    """All but the table and the warnings, a line each."""
    channels, height, width = summary.image_shape
    shown = [f"Images: {channels} x {height} x {width} (channels, height, width)"]
    if summary.sizes:
        sizes = {name: f"{size[0]} x {size[1]}" for name, size in summary.sizes.items() if name != "different"}
        if summary.sizes["different"] == 1:
            shown[0] += f"; pictures are {sizes['median']} (width, height)"
        else:
            words = ", ".join(f"{name} {size}" for name, size in sizes.items())
            shown[0] += f"; pictures have {summary.sizes['different']} sizes (width, height): {words}"
        shown[0] += "; modes " + ", ".join(f"{mode} {count}" for mode, count in summary.modes.items())
    if summary.split:
        shown.append("Split: " + "; ".join(f"{part}: {words}" for part, words in summary.split.items()))
    mean, std = (", ".join(f"{value:.4g}" for value in summary.normalisation[key]) for key in ("mean", "std"))
    shown.append(f"Normalisation: mean {mean}, standard deviation {std} ({summary.normalisation['from']})")
    shown.append(f"Memory: {summary.memory['bytes'] / 2**20:.1f} MiB of images {summary.memory['where']}")
    return shown


@rank_zero_only
def tell(message: str) -> None:
    """Print a line, once whatever the number of processes."""
    say(message)
