"""Data sets of Hugging Face: from the hub, or from files on this machine."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from image_classifier.data.pictures import PictureDataModule, ordered
from image_classifier.engine.errors import UserError
from image_classifier.engine.images.memory import free_memory
from image_classifier.engine.images.picture_sets import PictureItems, Pictures
from image_classifier.engine.images.pictures import natural
from image_classifier.engine.images.summary import tell

OLDEST = 5  # earlier versions of `datasets` unpickle files, or run scripts that come with the data
SPLITS = {"val": ("validation", "valid", "val", "dev"), "test": ("test",)}


class HuggingFace(PictureDataModule):
    """A data set that `datasets.load_dataset` loads, with a column of pictures and one of labels.

    Args:
        path: Name on the hub; or a local directory; or a kind of files, such as "parquet" or "imagefolder", with
            `data_dir` or `data_files`.
        name: Which configuration of the data set; None for its default.
        revision: Branch, tag or commit on the hub; None for the latest.
        data_dir: As in `load_dataset`.
        data_files: As in `load_dataset`.
        image_column: None for the only column of pictures.
        label_column: None for the only column of class labels, or the one called "label".
        train_split: Split for training; may be a slice such as "train[:10%]".
        val_split: "auto" for "validation" if there is one; None for a share of the training pictures.
        test_split: "auto" for "test" if there is one; None for a share of the training pictures.
        streaming: Read picture files from where they are into memory, once, instead of copying all of them to the disk
            first.
        settings: Arguments of PictureDataModule.
    """

    def __init__(
        self,
        *,
        path: str,
        name: str | None = None,
        revision: str | None = None,
        data_dir: str | None = None,
        data_files: Any = None,
        image_column: str | None = None,
        label_column: str | None = None,
        train_split: str = "train",
        val_split: str | None = "auto",
        test_split: str | None = "auto",
        streaming: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        local = Path(path).expanduser()
        self.path = str(local) if local.is_dir() else path
        self.arguments = {
            "name": name,
            "revision": revision,
            "data_dir": None if data_dir is None else str(Path(data_dir).expanduser()),
            "data_files": data_files,
        }
        self.image_column = image_column
        self.label_column = label_column
        self.splits = {"train": train_split, "val": val_split, "test": test_split}
        self.streaming = streaming

    @property
    def place_found(self) -> str:
        return self.path

    def find_parts(self, skipped: Counter[str]) -> dict[str, Pictures]:
        tables = self.load_tables()
        features = tables["train"].features
        pictures, labels = self.columns(features)
        values = {}
        for part, table in tables.items():
            table = table.cast_column(pictures, library().Image(decode=False)).select_columns([pictures, labels])
            tables[part] = self.in_memory_stream(table, pictures) if self.streaming else table
            values[part] = [row[labels] for row in tables[part]] if self.streaming else list(table[labels])
        self.class_names, numbers = self.number_classes(features[labels], values)
        return {
            part: PictureItems(
                tables[part],
                partial(encoded_picture, column=pictures),
                torch.tensor([numbers[value] for value in values[part]]),
                parallel=True,
            )
            for part in tables
        }

    def load_tables(self) -> dict[str, Any]:
        """The splits by part.

        Raises:
            UserError: The data set, or a split that is asked for, is not there.
        """
        datasets = library()
        arguments = {key: value for key, value in self.arguments.items() if value is not None}
        try:
            known = datasets.get_dataset_split_names(
                self.path, self.arguments["name"], **{k: v for k, v in arguments.items() if k != "name"}
            )
            for part, names in SPLITS.items():
                if self.splits[part] == "auto":
                    self.splits[part] = next((name for name in names if name in known), None)
            wanted = {part: split for part, split in self.splits.items() if split is not None}
            return {
                part: datasets.load_dataset(self.path, split=split, streaming=self.streaming, **arguments)
                for part, split in wanted.items()
            }
        except Exception as error:  # whatever the files, the hub or the network lead it to
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise UserError(
                f"expected a data set of Hugging Face at {self.path} but found {type(error).__name__}: {reason}; "
                "correct data.path, data.name, data.data_files or data.train_split"
            ) from None

    def columns(self, features: Any) -> tuple[str, str]:
        """The names of the columns of pictures and of labels."""
        kinds = {name: type(feature).__name__ for name, feature in (features or {}).items()}
        pictures = [self.image_column] if self.image_column else [n for n, kind in kinds.items() if kind == "Image"]
        labels = [self.label_column] if self.label_column else [n for n, kind in kinds.items() if kind == "ClassLabel"]
        labels = labels or [name for name in ("label", "labels") if name in kinds]
        for found, setting in ((pictures, "image_column"), (labels, "label_column")):
            if len(found) != 1 or found[0] not in kinds:
                columns = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
                raise UserError(
                    f"expected one column for data.{setting} in {self.path} but found {', '.join(found) or 'none'} "
                    f"among {columns or 'no columns'}; name it: data.{setting}=NAME"
                )
        return pictures[0], labels[0]

    def number_classes(
        self, feature: Any, values: Mapping[str, Sequence[Any]]
    ) -> tuple[tuple[str, ...], dict[Any, int]]:
        """The class names, and the label of each value of the column.

        Raises:
            UserError: Values are no classes, or are missing from the training pictures.
        """
        names = getattr(feature, "names", None)
        found = set(values["train"])
        known = (
            dict(enumerate(names))
            if names
            else {value: str(value) for value in sorted(found, key=lambda v: natural(str(v)))}
        )
        for part, present in values.items():
            if unknown := set(present) - known.keys():
                raise UserError(
                    f"expected labels of the classes {', '.join(known.values())} in {self.path} but found "
                    f"{', '.join(sorted(map(str, unknown)))} in {self.splits[part]}; "
                    + (
                        "choose another column: data.label_column=NAME"
                        if part == "train"
                        else f"data.{part}_split=null"
                    )
                )
        if len(known) < 2:
            raise UserError(
                f"expected two or more classes in {self.path} but found {', '.join(known.values()) or 'none'}"
            )
        order = ordered(list(known.values()), self.wanted_names, self.path, "class")
        return order, {value: order.index(name) for value, name in known.items()}

    def in_memory_stream(self, table: Any, pictures: str) -> list[dict[str, Any]]:
        """All rows of a stream, their pictures as the bytes of files.

        Raises:
            UserError: They fill more than half of the free memory.
        """
        room = free_memory() / 2
        rows, size = [], 0
        for row in table:
            row[pictures] = {"bytes": encoded_picture(row, pictures), "path": None}
            size += len(row[pictures]["bytes"])
            if size > room:
                raise UserError(
                    f"expected picture files that fit into memory but found more than {room / 2**30:.1f} GiB in "
                    f"{self.path}; copy them to the disk: data.streaming=false, or take a part: "
                    "'data.train_split=\"train[:10%]\"'"
                )
            rows.append(row)
        tell(f"Pictures: {len(rows)} streamed, {size / 2**20:.1f} MiB")
        return rows


def encoded_picture(row: dict[str, Any], column: str) -> bytes:
    """The bytes of the picture file of a row."""
    picture = row[column]
    if picture is None:
        raise ValueError("no picture")
    return picture["bytes"] if picture["bytes"] is not None else read_anywhere(picture["path"])


def read_anywhere(path: str) -> bytes:
    """The bytes of a file on this machine, or in an archive or at an address that a data set names."""
    if Path(path).is_file():
        return Path(path).read_bytes()
    from datasets.utils.file_utils import xopen

    with xopen(path, "rb") as file:
        return file.read()


def library() -> Any:
    """The package `datasets`.

    Raises:
        UserError: It is not installed, or too old.
    """
    try:
        import datasets
    except ImportError:
        raise UserError(
            "expected the package datasets for data=huggingface but found none; install it: "
            f"pip install 'datasets>={OLDEST}'"
        ) from None
    if int(datasets.__version__.partition(".")[0]) < OLDEST:
        raise UserError(
            f"expected datasets {OLDEST} or later, which unpickles no files, but found {datasets.__version__}; "
            f"install it: pip install 'datasets>={OLDEST}'"
        )
    datasets.disable_progress_bars()
    return datasets
