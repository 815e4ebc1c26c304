"""What a classifier said of each sample: the table `predictions/<stage>.csv` or `.parquet`, written and read."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from image_classifier.engine.confusion.tables import Lines, cell_for_sheet, read_rows, writer_of
from image_classifier.engine.errors import UserError
from image_classifier.engine.runs.files import staged

COLUMNS = ("sample", "true", "predicted", "confidence", "loss", "second")
ROWS_A_PIECE = 100_000  # of a table that is written: the text of all rows at once would fill the memory

Format = Literal["csv", "parquet"]
FORMATS: tuple[Format, ...] = ("csv", "parquet")


class SampleTable(NamedTuple):
    """N samples in the order of the data. Classes are positions in `class_names`, -1 where there is none."""

    samples: Sequence[str]  # N paths or indices
    true: np.ndarray  # (N,) int64; -1: without a label
    predicted: np.ndarray  # (N,) int64
    confidence: np.ndarray  # (N,) float32, probability of the predicted class
    loss: np.ndarray  # (N,) float32, cross-entropy: minus the logarithm of the true class's probability; NaN: no label
    second: np.ndarray  # (N,) int64, the second most probable class
    class_names: tuple[str, ...]

    def counts(self) -> np.ndarray:
        """(K, K) int64, rows true, columns predicted; samples without a label do not count."""
        number = len(self.class_names)
        labelled = self.true >= 0
        cells = self.true[labelled] * number + self.predicted[labelled]
        return np.bincount(cells, minlength=number**2).reshape(number, number)


def table_path(run_dir: Path, stage: str, form: Format) -> Path:
    return run_dir / "predictions" / f"{stage}.{form}"


def write_table(run_dir: Path, stage: str, table: SampleTable, form: Format = "csv") -> Path:
    """Write the table of a stage; that of an earlier run in another format is taken away.

    Args:
        run_dir: Run directory.
        stage: Such as "val" and "test".
        table: What to write.
        form: "csv", or "parquet", which needs the package pyarrow.

    Returns:
        Its path.
    """
    path = table_path(run_dir, stage, form)
    with staged(path) as staging:
        if form == "parquet":
            write_parquet(staging, table)
        else:
            with staging.open("w", encoding="utf-8", newline="") as file:
                file.writelines(csv_pieces(table))
    for other in FORMATS:
        if other != form:
            table_path(run_dir, stage, other).unlink(missing_ok=True)
    return path


def csv_pieces(table: SampleTable) -> Iterator[str]:
    """The CSV file piece by piece. Numbers have as many digits as float32 needs to come back the same."""
    names = [*map(cell_for_sheet, table.class_names), ""]  # position -1 is the last one
    lines = Lines()
    writer = writer_of(lines)
    writer.writerow(COLUMNS)
    for start in range(0, max(len(table.samples), 1), ROWS_A_PIECE):
        rows = slice(start, start + ROWS_A_PIECE)
        loss = np.where(np.isnan(table.loss[rows]), "", table.loss[rows].astype(str))
        writer.writerows(
            zip(
                map(cell_for_sheet, table.samples[rows]),
                (names[position] for position in table.true[rows].tolist()),
                (names[position] for position in table.predicted[rows].tolist()),
                table.confidence[rows].astype(str).tolist(),
                loss.tolist(),
                (names[position] for position in table.second[rows].tolist()),
                strict=True,
            )
        )
        yield "".join(lines)
        lines.clear()


def write_parquet(path: Path, table: SampleTable) -> None:
    pa = require_pyarrow()
    from pyarrow import parquet

    names = pa.array(table.class_names, pa.string())

    def classes(positions: np.ndarray) -> object:
        indices = pa.array(positions, pa.int32(), mask=positions < 0)
        return pa.DictionaryArray.from_arrays(indices, names)

    columns = {
        "sample": pa.array(table.samples, pa.string()),
        "true": classes(table.true),
        "predicted": classes(table.predicted),
        "confidence": pa.array(table.confidence),
        "loss": pa.array(table.loss, mask=np.isnan(table.loss)),
        "second": classes(table.second),
    }
    parquet.write_table(pa.table(columns), path)


def require_pyarrow() -> Any:
    """The package that reads and writes Parquet.

    Raises:
        UserError: It is not installed.
    """
    try:
        import pyarrow as pa
    except ImportError as error:
        raise UserError(
            f"expected the package pyarrow for predictions in Parquet but found none ({error}); "
            "install it: .venv/bin/python -m uv pip install pyarrow, or keep callbacks.predictions.format=csv"
        ) from None
    return pa


def read_table(run_dir: Path, stage: str, class_names: Sequence[str] | None = None) -> SampleTable | None:
    """Read the table of a stage.

    Args:
        run_dir: Run directory.
        stage: Such as "val" and "test".
        class_names: All classes in their order; None for those that appear in the table, sorted.

    Returns:
        None where the run has none.

    Raises:
        UserError: The file is not such a table, or has a class that is not among the names.
    """
    for form in FORMATS:
        path = table_path(run_dir, stage, form)
        if path.is_file():
            columns = read_parquet(path) if form == "parquet" else read_csv(path)
            return from_columns(columns, class_names, path)
    return None


def read_csv(path: Path) -> list[Sequence[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = read_rows(file)
        header = next(rows, [])
        check_columns(header, path)
        lines = list(rows)
    if any(len(line) != len(header) for line in lines):
        raise UserError(f"expected {len(header)} values in each row of {path} but found another number; train again")
    columns = dict(zip(header, zip(*lines, strict=True), strict=True)) if lines else dict.fromkeys(header, ())
    return [columns[name] for name in COLUMNS]


def read_parquet(path: Path) -> list[Sequence[str]]:
    require_pyarrow()
    from pyarrow import parquet

    table = parquet.read_table(path)
    check_columns(table.column_names, path)
    columns = [table[name].to_pylist() for name in COLUMNS]
    return [["" if value is None else value for value in column] for column in columns]


def check_columns(found: Sequence[str], path: Path) -> None:
    if missing := [name for name in COLUMNS if name not in found]:
        raise UserError(
            f"expected the columns {', '.join(COLUMNS)} in {path} but found no {', '.join(missing)}; "
            "name a run of this version of the project"
        )


def from_columns(columns: Sequence[Sequence[str]], class_names: Sequence[str] | None, path: Path) -> SampleTable:
    samples, true, predicted, confidence, loss, second = columns
    names = tuple(class_names or sorted({*true, *predicted, *second} - {""}))
    positions = {name: position for position, name in enumerate(names)} | {"": -1}
    if unknown := sorted({*true, *predicted, *second} - set(positions)):
        raise UserError(f"expected the classes {', '.join(names)} in {path} but found {', '.join(unknown)}")

    def classes(column: Sequence[str]) -> np.ndarray:
        return np.fromiter((positions[name] for name in column), np.int64, len(column))

    losses = np.fromiter((np.nan if value == "" else float(value) for value in loss), np.float32, len(loss))
    confidences = np.fromiter(map(float, confidence), np.float32, len(confidence))
    return SampleTable(samples, classes(true), classes(predicted), confidences, losses, classes(second), names)
