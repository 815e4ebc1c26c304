"""Pictures in shards, more than fit in memory: tar files as WebDataset lays them out."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from image_classifier.data.pictures import PictureDataModule, ordered
from image_classifier.engine.errors import UserError
from image_classifier.engine.images.picture_sets import Pictures, Stamp
from image_classifier.engine.images.pictures import class_name, natural
from image_classifier.engine.images.reading import progress
from image_classifier.engine.images.shards import PictureShards, places_of

PARTS = ("train", "val", "test")


class Found(NamedTuple):
    """The pictures of a folder of shards."""

    shards: list[Path]
    stamps: list[Stamp | None]  # of each shard
    places: np.ndarray  # (N, 3) as in PictureShards
    labels: list[str]  # of each picture


class WebDataset(PictureDataModule):
    """Pictures in tar files, each beside its label: `000123.jpg` and `000123.cls`.

    `<root>/train/*.tar` with or without `<root>/val` and `<root>/test`, or just `<root>/*.tar`. A part that is not
    there is a share of the training pictures, as in ImageFolder.

    Args:
        root: Directory of the shards; `~` is the home directory.
        label: What ends the name of the member with the label, such as cls; or `json.FIELD`.
        settings: Arguments of PictureDataModule. With labels that are numbers from 0, `class_names` names them.
    """

    def __init__(self, *, root: str, label: str = "cls", **settings: Any) -> None:
        super().__init__(**settings)
        self.root = Path(root).expanduser()
        self.label = label

    def find_parts(self, skipped: Counter[str]) -> dict[str, Pictures]:
        folder = self.root / "train" if (self.root / "train").is_dir() else self.root
        train = self.read_folder(folder, skipped)
        self.class_names, self.texts = self.name_classes(sorted(set(train.labels), key=natural))
        parts: dict[str, Pictures] = {"train": self.labelled(train)}
        for part in PARTS[1:] if folder != self.root else ():
            if (self.root / part).is_dir():
                parts[part] = self.labelled(self.read_folder(self.root / part, skipped))
        return parts

    def find_all(self, skipped: Counter[str]) -> Pictures:
        """All pictures; only those of a folder `test` if there is one."""
        folders = [self.root / part for part in PARTS if (self.root / part).is_dir()] or [self.root]
        folders = [self.root / "test"] if self.root / "test" in folders else folders
        read = [self.read_folder(folder, skipped) for folder in folders]
        self.texts = self.name_classes(sorted({text for part in read for text in part.labels}, key=natural))[1]
        first, *others = map(self.labelled, read)
        for other in others:
            first += other
        return first

    def read_folder(self, folder: Path, skipped: Counter[str]) -> Found:
        """The pictures in a folder."""
        shards = sorted(folder.glob("*.tar"), key=lambda path: natural(path.name)) if folder.is_dir() else []
        places: list[np.ndarray] = []
        labels: list[str] = []
        stamps: list[Stamp | None] = []
        known: dict[str, str] = {}  # the name of the class that a label stands for
        for number, shard in enumerate(progress(shards, "Looking through shards", len(shards))):
            found = places_of(shard, self.label)
            places.append(np.insert(found.spans, 0, number, axis=1))
            known |= {label: class_name(label) for label in set(found.labels) - known.keys()}
            labels += [known[label] for label in found.labels]
            skipped.update(found.skipped)
            stamps.append(found.stamp)
        if not labels:
            raise UserError(
                f"expected shards with pictures, *.tar, in {folder} but found none; name the directory: data.root=DIR"
            )
        return Found(shards, stamps, np.concatenate(places), labels)

    def name_classes(self, texts: Sequence[str]) -> tuple[tuple[str, ...], dict[str, int]]:
        """The class names, and the number of the class that each text of a label stands for."""
        wanted = self.wanted_names
        if hasattr(self, "class_names"):  # of a network from elsewhere
            wanted = list(self.class_names)
        numbers = all(text.isdecimal() for text in texts)
        if wanted is not None and numbers and not set(texts) <= set(wanted) and int(texts[-1]) < len(wanted):
            return tuple(wanted), {text: int(text) for text in texts}
        if hasattr(self, "class_names"):
            return self.class_names, {name: label for label, name in enumerate(self.class_names)}
        if len(texts) < 2:
            raise UserError(
                f"expected two or more labels in {self.root} but found only {', '.join(texts)}; "
                "name what holds them: data.label=cls, or data.label=json.FIELD"
            )
        names = ordered(texts, wanted, self.root, "label")
        return names, {name: label for label, name in enumerate(names)}

    def labelled(self, found: Found) -> PictureShards:
        if unknown := sorted(set(found.labels) - set(self.texts)):
            raise UserError(
                f"expected only the labels {', '.join(self.class_names)} in {self.root} as in training but found "
                f"{', '.join(unknown)}; correct or remove their pictures"
            )
        labels = torch.tensor([self.texts[label] for label in found.labels])
        return PictureShards(found.shards, found.places, labels, stamps=found.stamps)
