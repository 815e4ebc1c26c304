import csv
import sys
from pathlib import Path

import numpy as np
import pytest

from image_classifier.engine.errors import UserError
from image_classifier.engine.runs import sample_table
from image_classifier.engine.runs.sample_table import COLUMNS, SampleTable, read_table, table_path, write_table

NAMES = ("cat", 'a "quoted", name', "dog\nbelow", "ünï")


def example(samples: int = 50) -> SampleTable:
    generator = np.random.default_rng(0)
    true = generator.integers(-1, len(NAMES), samples)
    loss = generator.exponential(size=samples).astype(np.float32)
    loss[true < 0] = np.nan
    return SampleTable(
        samples=[f"some where/{index}, or so.png" for index in range(samples)],
        true=true,
        predicted=generator.integers(0, len(NAMES), samples),
        confidence=generator.random(samples, dtype=np.float32) ** 9,  # very small ones too
        loss=loss,
        second=generator.integers(-1, len(NAMES), samples),
        class_names=NAMES,
    )


def same(one: SampleTable, other: SampleTable) -> bool:
    return (
        list(one.samples) == list(other.samples)
        and one.class_names == other.class_names
        and all(np.array_equal(a, b, equal_nan=True) for a, b in zip(one[1:6], other[1:6], strict=True))
    )


@pytest.mark.parametrize("form", ["csv", "parquet"])
@pytest.mark.parametrize("samples", [0, 1, 50])
def test_a_table_comes_back_bit_by_bit(tmp_path: Path, form: str, samples: int) -> None:
    pytest.importorskip("pyarrow") if form == "parquet" else None
    table = example(samples)
    path = write_table(tmp_path, "test", table, form)  # type: ignore[arg-type]
    assert path == tmp_path / "predictions" / f"test.{form}"
    read = read_table(tmp_path, "test", NAMES)
    assert read is not None
    assert same(read, table)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_the_columns_are_for_people(tmp_path: Path) -> None:
    table = example()
    with write_table(tmp_path, "val", table).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    for position, row in enumerate(rows):
        label = table.true[position]
        assert row["true"] == (NAMES[label] if label >= 0 else "")
        assert row["predicted"] == NAMES[table.predicted[position]]
        assert np.float32(row["confidence"]) == table.confidence[position]
        assert (row["loss"] == "") == (label < 0)


def test_many_rows_are_written_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_table, "ROWS_A_PIECE", 7)
    write_table(tmp_path, "test", example())
    read = read_table(tmp_path, "test", NAMES)
    assert read is not None
    assert same(read, example())


def test_another_format_takes_the_place_of_the_first(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    write_table(tmp_path, "test", example(3), "csv")
    write_table(tmp_path, "test", example(4), "parquet")
    assert not table_path(tmp_path, "test", "csv").exists()
    assert len(read_table(tmp_path, "test").samples) == 4  # type: ignore[union-attr]


def test_counts_leave_out_what_has_no_label() -> None:
    from sklearn.metrics import confusion_matrix

    table = example()
    known = table.true >= 0
    expected = confusion_matrix(table.true[known], table.predicted[known], labels=range(len(NAMES)))
    assert np.array_equal(table.counts(), expected)


def test_mistakes_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_table(tmp_path, "test") is None
    path = write_table(tmp_path, "test", example())
    with pytest.raises(UserError, match="expected the classes cat, cow .* but found"):
        read_table(tmp_path, "test", ["cat", "cow"])
    path.write_text("file,label\na,b\n")
    with pytest.raises(UserError, match=r"expected the columns sample, .* but found no sample"):
        read_table(tmp_path, "test")
    path.write_text(",".join(COLUMNS) + "\na,b\n")
    with pytest.raises(UserError, match="another number"):
        read_table(tmp_path, "test")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match="pyarrow"):
        write_table(tmp_path, "test", example(), "parquet")
