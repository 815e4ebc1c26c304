"""One's own pictures, in one folder per class."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from image_classifier.data.pictures import PictureDataModule, missing_classes, ordered
from image_classifier.engine.errors import UserError
from image_classifier.engine.images.picture_sets import PictureFiles, Pictures
from image_classifier.engine.images.pictures import class_folders, class_name, find_pictures

PARTS = ("train", "val", "test")
OTHER_WORDS_FOR_PARTS = ("training", "valid", "validation", "testing")


class ImageFolder(PictureDataModule):
    """Pictures in one folder per class; the folders' names are the class names.

    `<root>/train/<class>/*` with or without `<root>/val` and `<root>/test`, or just `<root>/<class>/*`. A part
    without a folder of its own is a stratified share of the training pictures: `val_size` of them, chosen by
    `seed`, and `test_size`, the same ones whatever the seed.

    Args:
        root: Directory of the pictures; `~` is the home directory.
        settings: Arguments of PictureDataModule.
    """

    def __init__(self, *, root: str, **settings: Any) -> None:
        super().__init__(**settings)
        self.root = Path(root).expanduser()

    def find_parts(self, skipped: Counter[str]) -> dict[str, Pictures]:
        folder = self.root / "train" if (self.root / "train").is_dir() else self.root
        self.class_names = self.order_classes(list(class_folders(folder, Counter())), folder)
        parts: dict[str, Pictures] = {"train": self.scan(folder, skipped)}
        if empty := missing_classes(parts["train"].labels, self.class_names):
            raise UserError(f"expected pictures in {folder / empty[0]} but found none; add some or remove the folder")
        if folder != self.root:
            parts |= {
                part: self.scan(self.root / part, skipped) for part in ("val", "test") if (self.root / part).is_dir()
            }
            skipped.update(
                f"{path.name} beside train" for path in self.root.iterdir() if path.is_dir() and path.name not in PARTS
            )
        return parts

    def find_all(self, skipped: Counter[str]) -> PictureFiles:
        """All pictures; only those of a folder `test` if there is one."""
        parts = [part for part in PARTS if part not in self.class_names and (self.root / part).is_dir()]
        folders = [self.root / part for part in (["test"] if "test" in parts else parts)] or [self.root]
        pictures = self.scan(folders[0], skipped)
        for folder in folders[1:]:
            pictures += self.scan(folder, skipped)
        return pictures

    def order_classes(self, names: Sequence[str], folder: Path) -> tuple[str, ...]:
        """The names of class folders in the order of the labels.

        Raises:
            UserError: There are fewer than two, they are parts of the data, or other ones are wanted.
        """
        if len(names) < 2:
            raise UserError(
                f"expected a folder for each of two or more classes in {folder} but found "
                f"{f'only {names[0]}' if names else 'none'}; lay the pictures out as {folder}/<class>/<picture>"
            )
        if {name.lower() for name in names} <= {*PARTS, *OTHER_WORDS_FOR_PARTS}:
            raise UserError(
                f"expected a folder for each class in {folder} but found {', '.join(names)}; "
                f"the parts of the data are called {', '.join(PARTS)}"
            )
        wanted = None if self.wanted_names is None else [class_name(name) for name in self.wanted_names]
        return ordered(names, wanted, folder, "class folder")

    def scan(self, folder: Path, skipped: Counter[str]) -> PictureFiles:
        """The pictures of one part, class by class; a class without a folder has none.

        Raises:
            UserError: There is a folder of no class, or there are no pictures at all.
        """
        folders = class_folders(folder, skipped)
        if unknown := [name for name in folders if name not in self.class_names]:
            raise UserError(
                f"expected only folders of the classes {', '.join(self.class_names)} in {folder} as in training "
                f"but found {', '.join(unknown)}; rename or remove them"
            )
        paths: list[Path] = []
        names: list[str] = []
        labels: list[int] = []
        for label, name in enumerate(self.class_names):
            found = find_pictures(folders[name], skipped) if name in folders else []
            paths += found
            names += [f"{name}/{path.relative_to(folders[name]).as_posix()}" for path in found]
            labels += [label] * len(found)
        if not paths:
            raise UserError(
                f"expected pictures of the classes {', '.join(self.class_names)} in {folder} but found none; "
                f"lay them out as {folder}/<class>/<picture>"
            )
        return PictureFiles(paths, names, torch.tensor(labels))
