"""Predictions for pictures: a table as CSV, JSON or Parquet, and where folders tell the classes a confusion matrix."""

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from image_classifier.engine.confusion.matrix import overall_metrics, to_csv
from image_classifier.engine.confusion.tables import csv_text
from image_classifier.engine.errors import UserError
from image_classifier.engine.images.pictures import path_text
from image_classifier.engine.images.unlabelled import PictureBatches, true_classes
from image_classifier.engine.runs.files import write_atomically
from image_classifier.engine.runs.summary import confused_table
from image_classifier.engine.terminal import say
from image_classifier.engine.terminal_tables import Table, console

ROWS_SHOWN = 10

Row = dict[str, Any]


@dataclass
class Predictions:
    """What a network says of N pictures.

    Args:
        files: N names.
        probabilities: (N, K) float, each row sums to 1.
        class_names: K names.
        true: N positions in `class_names`, None where the class is not known; None when no class is.
        top_k: How many classes are listed for each picture, most probable first.
    """

    files: Sequence[str]
    probabilities: Tensor
    class_names: Sequence[str]
    true: Sequence[int | None] | None = None
    top_k: int = 1

    @cached_property
    def ranked(self) -> list[list[int]]:
        """The `top_k` most probable classes of each picture; of equal ones the first, as argmax has it."""
        if not len(self.probabilities):
            return []
        return self.probabilities.argsort(dim=1, descending=True, stable=True)[:, : self.top_k].tolist()

    @cached_property
    def values(self) -> list[list[float]]:
        return [[round(value, 6) for value in row] for row in self.probabilities.tolist()]

    def rows(self) -> list[Row]:
        """A flat row for each picture: file, true class where known, the likeliest ones, probability of each class."""
        names = column_names(self.class_names, self.fixed_columns())
        rows = []
        for position, file in enumerate(self.files):
            values = self.values[position]
            row: Row = {"file": file}
            if self.true is not None:
                row["true"] = self.true_name(position)
            for rank, label in enumerate(self.ranked[position], 1):
                suffix = "" if rank == 1 else f"_{rank}"
                row |= {f"predicted{suffix}": self.class_names[label], f"confidence{suffix}": values[label]}
            rows.append(row | dict(zip(names, values, strict=True)))
        return rows

    def fixed_columns(self) -> list[str]:
        ranks = ["", *(f"_{rank}" for rank in range(2, self.top_k + 1))]
        of_ranks = [f"{name}{rank}" for rank in ranks for name in ("predicted", "confidence")]
        return ["file", *(["true"] if self.true is not None else []), *of_ranks]

    def records(self) -> list[Row]:
        """The same, nested, for JSON: class names stay keys of their own."""
        return [
            {
                "file": file,
                **({"true": self.true_name(position)} if self.true is not None else {}),
                "predicted": [
                    {"class": self.class_names[label], "probability": self.values[position][label]}
                    for label in self.ranked[position]
                ],
                "probabilities": dict(zip(self.class_names, self.values[position], strict=True)),
            }
            for position, file in enumerate(self.files)
        ]

    def true_name(self, position: int) -> str | None:
        label = self.true[position] if self.true is not None else None
        return None if label is None else self.class_names[label]

    def counts(self) -> Tensor | None:
        """(K, K) int64 of the pictures whose class is known, rows true, columns predicted; None without any."""
        if self.true is None:
            return None
        number = len(self.class_names)
        pairs = [
            true * number + ranked[0] for true, ranked in zip(self.true, self.ranked, strict=True) if true is not None
        ]
        return torch.bincount(torch.tensor(pairs, dtype=torch.int64), minlength=number**2).view(number, number)


def of_pictures(
    pictures: PictureBatches, batches: Sequence[Tensor], class_names: Sequence[str], top_k: int, source: str
) -> Predictions:
    """Bring together what was read and what the network said of it.

    Args:
        pictures: The pictures, after they were read.
        batches: (B, K) probabilities of those that could be.
        class_names: K names.
        top_k: As in `Predictions`; at most K.
        source: What named the pictures; where it is a folder, its folders may tell the classes.
    """
    probabilities = torch.cat(list(batches)).float().cpu() if batches else torch.empty(0, len(class_names))
    paths = [pictures.paths[index] for index in pictures.decoded]
    true = true_classes(paths, Path(source), class_names)
    return Predictions(
        [path_text(path) for path in paths], probabilities, class_names, true, min(top_k, len(class_names))
    )


def column_names(class_names: Sequence[str], taken: Sequence[str]) -> list[str]:
    """Names for the columns of the classes, told apart from the others: a class may be called "file"."""
    names: list[str] = []
    for name in class_names:
        while name in taken or name in names:
            name = f"probability of {name}"
        names.append(name)
    return names


def write_csv(predictions: Predictions, path: Path) -> None:
    columns = predictions.fixed_columns()
    rows = [
        ["" if cell is None else f"{cell:.6f}" if isinstance(cell, float) else cell for cell in row.values()]
        for row in predictions.rows()
    ]
    write_atomically(path, csv_text([[*columns, *column_names(predictions.class_names, columns)], *rows]))


def write_json(predictions: Predictions, path: Path) -> None:
    lines = [json.dumps(record, ensure_ascii=False) for record in predictions.records()]
    write_atomically(path, "[\n" + ",\n".join(lines) + "\n]\n")


def write_parquet(predictions: Predictions, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    columns = predictions.fixed_columns()
    fields = [pa.field(name, pa.float32() if name.startswith("confidence") else pa.string()) for name in columns]
    fields += [pa.field(name, pa.float32()) for name in column_names(predictions.class_names, columns)]
    content = io.BytesIO()
    pyarrow.parquet.write_table(pa.Table.from_pylist(predictions.rows(), schema=pa.schema(fields)), content)
    write_atomically(path, content.getvalue())


WRITERS: dict[str, Callable[[Predictions, Path], None]] = {
    ".csv": write_csv,
    ".json": write_json,
    ".parquet": write_parquet,
}


def check_output(output: Path) -> None:
    """See that predictions can be written in the format that a file's suffix names.

    Raises:
        UserError: They cannot.
    """
    if output.suffix not in WRITERS:
        raise UserError(
            f"expected output to end with one of {', '.join(WRITERS)} but found {output}; "
            f"for example output={output.with_suffix('.csv') if output.name else 'predictions.csv'}"
        )
    if output.suffix == ".parquet":
        try:
            import pyarrow as pa  # noqa: F401
        except ImportError:
            raise UserError(
                "expected the package pyarrow, which writes Parquet, but found none; install it: "
                f".venv/bin/python -m uv pip install pyarrow, or type output={output.with_suffix('.csv')}"
            ) from None


def write(predictions: Predictions, output: Path, run_dir: Path) -> None:
    """Write the predictions, and the confusion matrix where classes are known; show the first rows.

    Args:
        predictions: The predictions.
        output: A file; its suffix says the format.
        run_dir: Where the confusion matrix goes, as `confusion_matrix/predict.csv` and `.png`.
    """
    WRITERS[output.suffix](predictions, output)
    console().print(first_rows(predictions))
    counts = predictions.counts()
    if counts is not None:
        write_matrix(counts, predictions, run_dir / "confusion_matrix")
    say(f"All predictions: {output}")


def first_rows(predictions: Predictions) -> Table:
    columns = predictions.fixed_columns()
    table = Table(f"{len(predictions.files)} predictions", columns)
    for row in predictions.rows()[:ROWS_SHOWN]:
        cells = (row[column] for column in columns)
        table.add_row(*(f"{cell:.6f}" if isinstance(cell, float) else cell or "" for cell in cells))
    if len(predictions.files) > ROWS_SHOWN:
        table.add_row("...")
    return table


def write_matrix(counts: Tensor, predictions: Predictions, directory: Path) -> None:
    from image_classifier.engine.figures.confusion_matrix import draw_confusion_matrix  # slow to import

    figures = overall_metrics(counts)
    total = int(counts.sum())
    title = f"accuracy {figures['accuracy']:.2%}"
    write_atomically(directory / "predict.csv", to_csv(counts, predictions.class_names))
    picture = io.BytesIO()
    Image.fromarray(draw_confusion_matrix(counts, predictions.class_names, title=title)).save(picture, "PNG")
    write_atomically(directory / "predict.png", picture.getvalue())
    if int(counts.diagonal().sum()) < total:
        console().print(confused_table(counts, tuple(predictions.class_names), limit=5))
    others = f" of {len(predictions.files)}" if total < len(predictions.files) else ""
    say(
        f"Accuracy: {figures['accuracy']:.4f}, balanced {figures['balanced_acc']:.4f}, by the folders of "
        f"{total}{others} pictures; matrix: {directory / 'predict.png'}"
    )


def check_all_read(unreadable: Sequence[Path], total: int, output: Path) -> None:
    """Say at the end which pictures have no row.

    Raises:
        UserError: There are some.
    """
    if unreadable:
        raise UserError(
            f"expected {total} pictures but {len(unreadable)} could not be read "
            f"and have no row in {output}: {', '.join(map(str, unreadable))}"
        )
