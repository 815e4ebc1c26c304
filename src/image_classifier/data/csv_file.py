"""Pictures that a table lists: one row a picture, with its path and its label."""

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from image_classifier.data.pictures import PictureDataModule, ordered
from image_classifier.engine.errors import UserError
from image_classifier.engine.images.picture_sets import PictureFiles, Pictures
from image_classifier.engine.images.pictures import class_name, natural
from image_classifier.engine.images.summary import tell
from image_classifier.engine.terminal import shell_quoted

PARTS = ("train", "val", "test")
SPLIT_COLUMN = "split"  # the name that a table need not have


class CsvPictures(PictureDataModule):
    """Pictures listed in CSV files with a header, around whose names spaces do not count.

    Either one file, whose column `split_column`, where it has one, says train, val or test; or a directory with
    `train.csv` and, optionally, `val.csv` and `test.csv`. A part that is not there is a share of the training
    pictures, as in ImageFolder.

    Args:
        root: The CSV file, or the directory; `~` is the home directory.
        pictures: Directory from which relative paths start; None for that of the CSV file.
        path_column: Column of the paths.
        label_column: Column of the labels; each different text is a class.
        split_column: Column of the parts; a table for training must have it under any other name than "split".
        settings: Arguments of PictureDataModule.
    """

    def __init__(
        self,
        *,
        root: str,
        pictures: str | None = None,
        path_column: str = "path",
        label_column: str = "label",
        split_column: str = SPLIT_COLUMN,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.root = Path(root).expanduser()
        self.pictures = None if pictures is None else Path(pictures).expanduser()
        self.path_column = path_column.strip()
        self.label_column = label_column.strip()
        self.split_column = split_column.strip()

    def find_parts(self, skipped: Counter[str]) -> dict[str, Pictures]:
        parts = self.read_parts()
        if "train" not in parts:
            raise UserError(f"expected training pictures in {self.root} but found only {', '.join(parts)}; add some")
        names = sorted({label for _, label in parts["train"]}, key=natural)
        if len(names) < 2:
            raise UserError(
                f"expected two or more labels in column {self.label_column} of {self.root} but found "
                f"{', '.join(names) or 'none'}; name the right column: data.label_column=NAME"
            )
        self.class_names = ordered(names, self.wanted_names, self.root, "label")
        return {part: self.labelled(rows) for part, rows in parts.items()}

    def find_all(self, skipped: Counter[str]) -> Pictures:
        """All pictures; only those of the part test if there is one."""
        parts = self.read_parts()
        chosen = [parts["test"]] if "test" in parts else list(parts.values())
        return self.labelled([row for rows in chosen for row in rows])

    def read_parts(self) -> dict[str, list[tuple[str, str]]]:
        """Path and label of the pictures of each part that is there."""
        if self.root.is_dir():
            files = {part: self.root / f"{part}.csv" for part in PARTS}
            found = {part: file for part, file in files.items() if file.is_file()}
            if not found:
                raise UserError(f"expected train.csv in {self.root} but found none; name the file: data.root=FILE.csv")
            return {part: self.read_file(file, part)[part] for part, file in found.items()}
        if not self.root.is_file():
            raise UserError(f"expected a CSV file but found none at {self.root}; name it: data.root=FILE.csv")
        return self.read_file(self.root)

    def read_file(self, file: Path, only: str | None = None) -> dict[str, list[tuple[str, str]]]:
        """Path and label of the rows of a file by its column of parts; all are for training where it has none.

        Args:
            file: The table.
            only: The one part that it holds; None for any.
        """
        parts: dict[str, list[tuple[str, str]]] = {}
        empty: list[int] = []  # lines that do not say their part
        try:
            with file.open(encoding="utf-8-sig", newline="") as stream:
                header = stream.readline()
                stream.seek(0)
                delimiter = max(",;\t", key=header.count)
                table = csv.DictReader(stream, delimiter=delimiter, skipinitialspace=True, strict=True)
                columns = table.fieldnames = [name.strip() for name in table.fieldnames or []]
                for setting in ("path_column", "label_column"):
                    self.check_column(getattr(self, setting), setting, columns, file)
                split_column = self.split_column_among(columns, file)
                for row in table:
                    cell = (only or "train") if split_column is None else (row[split_column] or "").strip()
                    if not cell:
                        empty.append(table.line_num)
                        continue
                    part = self.part_of(cell, split_column, file, table.line_num)
                    if part != (only or part):
                        raise UserError(
                            f"expected only pictures for {only} in {file} but found {cell} in column {split_column} of "
                            f"line {table.line_num}; move the line, or name the table alone: data.root=FILE.csv"
                        )
                    path, label = row[self.path_column], row[self.label_column]
                    if not path or not label or not label.strip():
                        raise UserError(
                            f"expected a path and a label in line {table.line_num} of {file} but found "
                            f"{path or 'no path'}, {(label or '').strip() or 'no label'}; complete or remove the line"
                        )
                    parts.setdefault(part, []).append((path, class_name(label.strip())))
        except (UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"expected a CSV file in UTF-8 but found {file}: {error}; save it as such") from None
        if empty:
            raise UserError(
                f"expected train, val or test in column {split_column} of each row of {file} but found {len(empty)} "
                f"without, the first in line {empty[0]}; complete them, or name another column: data.split_column=NAME"
            )
        if not parts:
            raise UserError(f"expected pictures in {file} but found no rows; add some")
        return {part: parts[part] for part in PARTS if part in parts}

    def split_column_among(self, columns: Sequence[str], file: Path) -> str | None:
        """The column of the parts; None where a table has none and need not have one.

        The usual name is found in capitals too, which is told: else the table's own test pictures would be trained on.
        """
        alike = [name for name in columns if name.lower() == self.split_column.lower()]
        usual = self.split_column == SPLIT_COLUMN
        if not alike and (usual or self.training_state is not None):  # a test of a network from elsewhere takes all
            return None
        if usual and len(alike) == 1 and self.split_column not in columns:
            tell(f"Pictures: column {alike[0]} of {file} says which part a picture is for")
            return alike[0]
        self.check_column(self.split_column, "split_column", columns, file)
        return self.split_column

    def check_column(self, column: str, setting: str, columns: Sequence[str], file: Path) -> None:
        """Refuse a table without a column, or with several of its name."""
        if columns.count(column) != 1:
            alike = next((name for name in columns if name != column and name.lower() == column.lower()), "NAME")
            number = f"{columns.count(column)} of them in " if column in columns else ""
            raise UserError(
                f"expected a column {column} in {file} but found {number}{', '.join(columns) or 'none'}; "
                f"name the right one: data.{setting}={shell_quoted(alike)}"
            )

    def part_of(self, text: str, column: str | None, file: Path, line: int) -> str:
        part = {"training": "train", "valid": "val", "validation": "val", "testing": "test"}.get(text.lower())
        part = part or text.lower()
        if part not in PARTS:
            raise UserError(
                f"expected train, val or test in column {column} of {file} but found {text} in line {line}; "
                "correct it, or name another column: data.split_column=NAME"
            )
        return part

    def labelled(self, rows: Sequence[tuple[str, str]]) -> PictureFiles:
        """The pictures of rows of path and label, class by class.

        Raises:
            UserError: A label is of no class.
        """
        if unknown := sorted({label for _, label in rows} - set(self.class_names)):
            raise UserError(
                f"expected only the labels {', '.join(self.class_names)} in {self.root} as in training but found "
                f"{', '.join(unknown)}; correct or remove their rows"
            )
        start = self.pictures or (self.root if self.root.is_dir() else self.root.parent)
        number = {name: label for label, name in enumerate(self.class_names)}
        rows = sorted(rows, key=lambda row: (number[row[1]], row[0]))
        labels = torch.tensor([number[label] for _, label in rows])
        return PictureFiles([start / path for path, _ in rows], [f"{label}/{path}" for path, label in rows], labels)
