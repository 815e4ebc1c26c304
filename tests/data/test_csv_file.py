"""CSV files of paths and labels: columns, parts, spellings, and what is told about wrong ones."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from image_classifier.data.csv_file import CsvPictures
from image_classifier.engine.errors import UserError
from picture_sources import write_csv, write_folder


def make(root: Path, **settings: Any) -> CsvPictures:
    datamodule = CsvPictures(root=str(root), **{"image_size": 8, "batch_size": 4, "val_size": 0.25} | settings)
    datamodule.prepare_data()
    datamodule.setup("fit")
    datamodule.setup("test")
    return datamodule


def counts(datamodule: CsvPictures) -> list[list[int]]:
    """Images of each class in training, validation and test."""
    labels, number = datamodule.train_images.labels, datamodule.num_classes
    parts = (labels[datamodule.train_indices], labels[datamodule.val_indices], datamodule.test_images.labels)
    return [torch.bincount(part, minlength=number).tolist() for part in parts]


def draw(root: Path, *names: str) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(names):
        Image.new("RGB", (8, 8), (index, 2 * index, 255 - index)).save(root / name)


def table(file: Path, *lines: str, encoding: str = "utf-8") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n", encoding=encoding)
    return file


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_columns_delimiters_and_the_mark_at_the_start(tmp_path: Path, delimiter: str, encoding: str) -> None:
    draw(tmp_path / "pictures", *(f"{index:02}.png" for index in range(20)))
    rows = [delimiter.join(("x", ("katze", "hünd")[index % 2], f"{index:02}.png")) for index in range(20)]
    file = table(tmp_path / "a.csv", delimiter.join(("id", "class", "file")), *rows, encoding=encoding)
    datamodule = make(file, pictures=str(tmp_path / "pictures"), path_column="file", label_column="class")
    assert datamodule.class_names == ("hünd", "katze") and counts(datamodule) == [[6, 6], [2, 2], [2, 2]]
    assert (datamodule.test_images.images[datamodule.test_images.labels == 1][:, 0, 0, 0] % 2 == 0).all()


@pytest.mark.parametrize("parts", [("train",), ("train", "test"), ("train", "valid", "test"), ("training", "val")])
def test_parts_from_a_column(tmp_path: Path, parts: tuple[str, ...]) -> None:
    sizes = {"train": 8, "training": 8, "val": 2, "valid": 2, "test": 1}
    lines = ["path,label,split"]
    for part in parts:
        draw(tmp_path / part, *(f"{index}.png" for index in range(2 * sizes[part])))
        lines += [f"{part}/{index}.png,{'ab'[index % 2]},{part}" for index in range(2 * sizes[part])]
    found = counts(make(table(tmp_path / "all.csv", *lines), test_size=2))
    test = 1
    train = 8 - (0 if "test" in parts else test)
    val = 2 if {"val", "valid"} & {*parts} else round(train * 2 * 0.25) // 2
    assert [sum(part) for part in found][2] == 2 * test
    assert sum(found[1]) == (4 if {"val", "valid"} & {*parts} else round(train * 2 * 0.25))
    assert sum(map(sum, found)) == 2 * sum(sizes[part] for part in parts) and val


def test_parts_from_a_directory_of_files(tmp_path: Path) -> None:
    for seed, (part, count) in enumerate({"train": 8, "val": 3, "test": 2}.items()):
        folder = write_folder(tmp_path / part, count, seed)
        write_csv(tmp_path / f"{part}.csv", folder)
        lines = (tmp_path / f"{part}.csv").read_text().splitlines()
        table(tmp_path / f"{part}.csv", lines[0], *(f"{part}/{line}" for line in lines[1:]))
    assert counts(make(tmp_path)) == [[8] * 3, [3] * 3, [2] * 3]


def test_absolute_paths_and_a_chosen_order(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "elsewhere", 6)
    rows = [f"{path},{path.parent.name}" for path in sorted(folder.rglob("*.png"))]
    file = table(tmp_path / "new" / "a.csv", "path,label", *rows)
    assert make(file, class_names=["red", "blue", "green"]).class_names == ("red", "blue", "green")


def test_missing_and_bad_files_are_told_at_once_or_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw(tmp_path, *(f"{index:02}.png" for index in range(16)))
    (tmp_path / "03.png").unlink()
    (tmp_path / "08.png").write_bytes(b"no picture")
    file = table(tmp_path / "a.csv", "path,label", *(f"{index:02}.png,{'ab'[index % 2]}" for index in range(16)))
    with pytest.raises(UserError, match=r"found 2 that cannot be decoded: .*(03|08)\.png \(.*(03|08)\.png \("):
        make(file)
    assert sum(map(sum, counts(make(file, on_error="skip")))) == 14
    assert "No such file or directory" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["a,b", "1,2"], r"a column path in .*a\.csv but found a, b; name the right one: data\.path_column=NAME"),
        (["path,b", "1,2"], r"a column label in .*found path, b; name the right one: data\.label_column=NAME"),
        ([], r"a column path in .* but found none"),
        (["path,label"], r"expected pictures in .*a\.csv but found no rows"),
        (["path,label", "x.png,a"], r"two or more labels in column label of .* but found a; name the right column"),
        (["path,label", "x.png,a", "y.png,"], r"a label in line 3 of .* but found y\.png, no label; complete"),
        (["path,label", "x.png,a", ",b"], r"a path and a label in line 3 of .* but found no path, b"),
        (["path,label", "x.png,a", "y.png"], r"line 3 of .* but found y\.png, no label"),
        (["path,label,split", "x.png,a,first"], r"train, val or test in column split of .* but found first in line 2"),
        (["path,label,split", "x.png,a,test"], r"training pictures in .* but found only test; add some"),
        (["path,label,split", "x,a,train", "z,b,train", "y,c,val"], r"only the labels a, b in .* but found c; correct"),
    ],
)
def test_wrong_tables_are_told(tmp_path: Path, lines: list[str], message: str) -> None:
    draw(tmp_path, "x.png", "y.png")
    with pytest.raises(UserError, match=message) as told:
        make(table(tmp_path / "a.csv", *lines))
    assert "\n" not in str(told.value)


def test_files_that_are_no_tables_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a CSV file but found none at .*absent\.csv; name it: data\.root=FILE\.csv"):
        make(tmp_path / "absent.csv")
    with pytest.raises(UserError, match=r"expected train\.csv in .* but found none; name the file"):
        make(tmp_path)
    (tmp_path / "a.csv").write_bytes(b"path,label\n\xff\xfe,a\n")
    with pytest.raises(UserError, match=r"a CSV file in UTF-8 but found .*a\.csv: .*; save it as such"):
        make(tmp_path / "a.csv")


def test_a_network_is_tested_on_another_table_without_what_it_was_trained_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_folder(tmp_path / "pictures", 8)
    before = make(write_csv(folder / "a.csv", folder))
    state = before.state_dict()
    after = CsvPictures(root="absent", image_size=8, batch_size=4, val_size=0.25)
    after.relocate(str(folder / "a.csv"), before.class_names, state)
    after.prepare_data()
    after.setup("test")
    assert torch.equal(after.test_images.images, before.test_images.images)
    assert "that training and validation used are left out" in capsys.readouterr().out
    new = write_folder(tmp_path / "new", 2, seed=5)
    other = CsvPictures(root="absent", image_size=8, batch_size=4, val_size=0.25)
    other.relocate(str(write_csv(new / "b.csv", new)), before.class_names, state)
    other.prepare_data()
    other.setup("test")
    assert torch.bincount(other.test_images.labels).tolist() == [2, 2, 2]


def parted(file: Path, header: str, *cells: str) -> Path:
    """20 pictures, of which the first 16 are for training and the others as `cells` say."""
    draw(file.parent, *(f"{index:02}.png" for index in range(20)))
    parts = ["train"] * (20 - len(cells)) + [*cells]
    return table(file, header, *(f"{index:02}.png,{'ab'[index % 2]},{part}" for index, part in enumerate(parts)))


@pytest.mark.parametrize(
    "header", ["path,label,split", "path, label, split", " path ,label\t,split ", "path,label,SPLIT"]
)
@pytest.mark.parametrize("settings", [{}, {"split_column": " split "}])
def test_the_column_of_parts_is_found_in_other_spellings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], header: str, settings: dict[str, Any]
) -> None:
    file = parted(tmp_path / "a.csv", header, *["test"] * 4)
    assert [sum(part) for part in counts(make(file, **settings))] == [12, 4, 4]
    told = f"Pictures: column SPLIT of {file} says which part a picture is for" in capsys.readouterr().out
    assert told == ("SPLIT" in header)


@pytest.mark.parametrize(
    ("header", "column", "message"),
    [
        (
            "path,label,fold",
            "part",
            r"a column part in .*a\.csv but found path, label, fold; .*data\.split_column=NAME",
        ),
        ("path,label, Part", "part", r"a column part in .* but found path, label, Part; .*data\.split_column=Part"),
        ("path,label,split", "Split", r"a column Split in .* but found path, label, split; .*data\.split_column=split"),
        ("path,label,split,split", "split", r"a column split in .* but found 2 of them in path, label, split, split;"),
        ("path,label,Split,SPLIT", "split", r"a column split in .* but found path, label, Split, SPLIT; name"),
        ("path,Label,split", "split", r"a column label in .* but found path, Label, split; .*data\.label_column=Label"),
        ("path,label,label ", "split", r"a column label in .* but found 2 of them in path, label, label;"),
    ],
)
def test_a_column_that_is_not_there_is_told(tmp_path: Path, header: str, column: str, message: str) -> None:
    for root in (parted(tmp_path / "a.csv", header), parted(tmp_path / "train.csv", header).parent):
        with pytest.raises(UserError, match=message.replace("a\\.csv", ".*")) as told:
            make(root, split_column=column)
        assert "\n" not in str(told.value)


@pytest.mark.parametrize("cells", [("test", "", "test"), ("", "", ""), (" ", "test", "\t")])
def test_rows_without_a_part_are_counted(tmp_path: Path, cells: tuple[str, ...]) -> None:
    empty = [index for index, cell in enumerate(cells) if not cell.strip()]
    message = rf"in column split of each row of .* but found {len(empty)} without, the first in line {19 + empty[0]};"
    with pytest.raises(UserError, match=message):
        make(parted(tmp_path / "a.csv", "path,label,split", *cells))


def test_a_table_of_one_part_holds_no_other(tmp_path: Path) -> None:
    parted(tmp_path / "train.csv", "path,label,split", "test")
    with pytest.raises(
        UserError, match=r"only pictures for train in .*train\.csv but found test in column split of lin"
    ):
        make(tmp_path)


def test_a_network_is_tested_on_all_rows_of_a_table_without_the_column(tmp_path: Path) -> None:
    before = make(parted(tmp_path / "a.csv", "path,label,part", *["test"] * 4), split_column="part")
    new = write_folder(tmp_path / "new", 2, seed=5)
    for name in ("blue", "green"):
        (new / name).rename(new / name[0])
    rows = [f"{path.relative_to(new)},{'ab'[path.parent.name == 'g']}" for path in sorted(new.glob("[bg]/*.png"))]
    after = CsvPictures(root="absent", image_size=8, batch_size=4, val_size=0.25, split_column="part")
    after.relocate(str(table(new / "b.csv", "path,label", *rows)), before.class_names, before.state_dict())
    after.prepare_data()
    assert len(after.files["test"]) == 4
