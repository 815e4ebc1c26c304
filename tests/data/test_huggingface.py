"""Data sets of Hugging Face, on this machine: kinds of files, columns, splits, streams, and what is told."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from image_classifier.data import huggingface
from image_classifier.data.huggingface import HuggingFace, encoded_picture
from image_classifier.engine.errors import UserError
from picture_sources import CLASSES, table_of, write_folder, write_parquet

datasets = pytest.importorskip("datasets", reason="needs the package datasets")


@pytest.fixture(autouse=True, scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing into the home directory, and nobody is asked."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("data"))
        patch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        yield


def make(path: Path | str, **settings: Any) -> HuggingFace:
    settings = {"image_size": 12, "batch_size": 4, "val_size": 0.25, "num_workers": 0} | settings
    datamodule = HuggingFace(path=str(path), **settings)
    datamodule.prepare_data()
    datamodule.setup("fit")
    datamodule.setup("test")
    return datamodule


def sizes(datamodule: HuggingFace) -> tuple[int, int, int]:
    return len(datamodule.train_indices), len(datamodule.val_indices), len(datamodule.test_images.labels)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("splits", "settings", "expected"),
    [
        ({"train": 8}, {"test_size": 6, "val_size": 3}, (15, 3, 6)),
        ({"train": 8, "test": 2}, {"val_size": 4}, (20, 4, 6)),
        ({"train": 8, "validation": 3, "test": 2}, {}, (24, 9, 6)),
        ({"train": 8, "validation": 3, "test": 2}, {"val_split": None, "val_size": 4}, (20, 4, 6)),
        ({"train": 8, "validation": 3}, {"test_split": "validation", "val_split": None, "val_size": 4}, (20, 4, 9)),
    ],
)
def test_splits(
    tmp_path: Path, splits: dict[str, int], settings: dict[str, Any], expected: tuple[int, ...], streaming: bool
) -> None:
    datamodule = make(write_parquet(tmp_path / "set", splits), streaming=streaming, **settings)
    assert sizes(datamodule) == expected and datamodule.class_names == CLASSES


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", ["imagefolder", "directory", "parquet", "string labels"])
def test_kinds_of_files(tmp_path: Path, kind: str, streaming: bool) -> None:
    folder = write_folder(tmp_path / "folder", 8)
    settings: dict[str, Any] = {"test_size": 6, "streaming": streaming}
    if kind == "imagefolder":
        datamodule = make("imagefolder", data_dir=str(folder), **settings)
    elif kind == "directory":
        datamodule = make(folder, **settings)
    else:
        root = write_parquet(tmp_path / "set", {"train": 8}, "string" if kind == "string labels" else "class label")
        datamodule = make("parquet", data_files=str(root / "data" / "train.parquet"), **settings)
    reference = make(write_parquet(tmp_path / "reference", {"train": 8}), test_size=6)
    assert datamodule.class_names == CLASSES
    assert torch.equal(datamodule.train_images.images, reference.train_images.images)
    assert torch.equal(datamodule.test_images.labels, reference.test_images.labels)


def test_files_inside_an_archive_are_read(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "folder", 1)
    archive = shutil.make_archive(str(tmp_path / "archive"), "zip", folder)
    expected = (folder / "blue" / "000.png").read_bytes()
    for path in (str(folder / "blue" / "000.png"), f"zip://blue/000.png::{archive}"):
        assert encoded_picture({"image": {"bytes": None, "path": path}}, "image") == expected


def test_a_part_of_a_split_and_a_chosen_order(tmp_path: Path) -> None:
    root = write_parquet(tmp_path / "set", {"train": 8, "test": 2}, "string")
    datamodule = make(root, train_split="train[:20]", class_names=["red", "blue", "green"], val_size=4)
    assert sizes(datamodule) == (16, 4, 6) and datamodule.class_names == ("red", "blue", "green")
    assert torch.bincount(datamodule.train_images.labels).tolist() == [4, 8, 8]  # the last of them are red


def test_a_stream_that_does_not_fit_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface, "free_memory", lambda: 2000)
    with pytest.raises(UserError, match=r"that fit into memory but found more than .*; copy .* data\.streaming=false"):
        make(write_parquet(tmp_path / "set", {"train": 8}), streaming=True)


@pytest.mark.parametrize("streaming", [False, True])
def test_bad_pictures_are_named_at_once(tmp_path: Path, streaming: bool) -> None:
    table = table_of(8).cast_column("image", datasets.Image(decode=False))
    rows = list(table)
    for index in (1, 9):
        rows[index] = rows[index] | {"image": {"bytes": b"no picture", "path": None}}
    rows[4] = rows[4] | {"image": None} if not streaming else rows[4]
    columns = {name: [row[name] for row in rows] for name in ("image", "label")}
    (tmp_path / "set").mkdir()
    datasets.Dataset.from_dict(columns, features=table.features).to_parquet(str(tmp_path / "set" / "train.parquet"))
    bad = 2 if streaming else 3
    with pytest.raises(UserError, match=rf"found {bad} that cannot be decoded: item 1 \(.*item 9 \("):
        make(tmp_path / "set", streaming=streaming, test_size=3)
    assert sum(sizes(make(tmp_path / "set", streaming=streaming, test_size=3, on_error="skip"))) == 24 - bad


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"path": "nowhere/at_all"},
            r"set of Hugging Face at nowhere/at_all but found \w+: .*; correct data\.path",
        ),
        ({"train_split": "training"}, r"Hugging Face at .* but found ValueError: .*training"),
        (
            {"image_column": "picture"},
            r"one column for data\.image_column .* found picture among image \(Image\), ",
        ),
        ({"label_column": "kind"}, r"one column for data\.label_column in .* but found kind among"),
        ({"class_names": ["a", "b"]}, r"data\.class_names to name each class in .* once but found a, b"),
    ],
)
def test_what_is_not_there_is_told(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    settings = {"path": write_parquet(tmp_path / "set", {"train": 4})} | settings
    with pytest.raises(UserError, match=message) as told:
        make(**settings)
    assert "\n" not in str(told.value)


def test_labels_of_no_class_are_told(tmp_path: Path) -> None:
    root = write_parquet(tmp_path / "set", {"train": 4, "test": 2}, "string")
    table = table_of(2, kind="string")
    table = table.map(lambda row: {"label": "violet" if row["label"] == "red" else row["label"]})
    table.to_parquet(str(root / "data" / "test.parquet"))
    with pytest.raises(UserError, match=r"blue, green, red in .* found violet in test; .*data\.test_split=null"):
        make(root)


def test_without_the_package_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"package datasets .* but found none; install it: pip install"):
        make(tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(datasets, "__version__", "3.2.0")
    with pytest.raises(UserError, match=r"expected datasets 5 or later, which unpickles no files, but found 3\.2\.0"):
        make(tmp_path)


def test_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_parquet(tmp_path / "set", {"train": 4})
    monkeypatch.setenv("HOME", str(tmp_path))
    assert HuggingFace(path="~/set", batch_size=1, val_size=1).path == str(tmp_path / "set")
