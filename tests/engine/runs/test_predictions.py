"""Predictions for picture files, made from a checkpoint alone."""

import csv
import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from image_classifier import pipeline
from image_classifier.engine.errors import UserError
from image_classifier.engine.images.pictures import PictureForm, read_picture
from image_classifier.engine.images.unlabelled import PictureBatches, input_pictures, true_classes
from image_classifier.engine.runs import predictions
from image_classifier.engine.runs.predictions import Predictions
from tiny import TINY

# Saturated halves: a tiny network learns them within seconds.
CLASSES = {"left": (slice(None), slice(None, 6)), "right": (slice(None), slice(6, None))}


def draw(directory: Path, name: str, count: int) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        pixels = np.random.default_rng(index).integers(80, size=(12, 12, 3), dtype=np.uint8)
        pixels[CLASSES[name]] += 150
        Image.fromarray(pixels).save(directory / f"{name}_{index}.png")


@pytest.fixture
def ckpt_path(compose_config: Callable[..., Any], tmp_path: Path) -> Path:
    """Trained on pictures that are gone afterwards."""
    for name in CLASSES:
        draw(tmp_path / "pictures" / name, name, 20)
    cfg = compose_config(
        *(override for override in TINY if not override.startswith("data")),
        "data=image_folder",
        f"data.root={tmp_path}/pictures",
        "data.image_size=12",
        "data.batch_size=8",
        "data.augmentation.flip=0",
        "data.mean=[0.3,0.4,0.5]",
        "trainer.max_epochs=5",
        "confusion_matrix=none",
        "callbacks.sample_images=null",
        "logger=none",
    )
    pipeline.train(cfg)
    shutil.rmtree(tmp_path / "pictures")
    return tmp_path / "run" / "checkpoints" / "best.ckpt"


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_predictions_need_the_checkpoint_only(
    ckpt_path: Path, compose_config: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in CLASSES:
        draw(tmp_path / "new", name, 7)
    output = tmp_path / "results" / "predictions.csv"
    settings = (f"ckpt_path={ckpt_path}", f"output={output}", "batch_size=4", "trainer=cpu")
    pipeline.predict(compose_config(*settings, f"input={tmp_path}/new", config_name="predict"))
    rows = read(output)
    assert list(rows[0]) == ["file", "predicted", "confidence", "left", "right"]
    assert [row["file"] for row in rows] == sorted(str(path) for path in (tmp_path / "new").iterdir())
    assert all(Path(row["file"]).name.startswith(row["predicted"]) for row in rows)
    assert "14 predictions" in capsys.readouterr().out
    model = pipeline.load_model(pipeline.read_checkpoint(str(ckpt_path))).eval()
    for row in rows:
        pixels = torch.from_numpy(np.array(Image.open(row["file"]))).permute(2, 0, 1)[None] / 255
        mean, std = torch.tensor([0.3, 0.4, 0.5]), torch.tensor([0.229, 0.224, 0.225])
        with torch.no_grad():
            expected = model((pixels - mean[:, None, None]) / std[:, None, None]).softmax(1)[0]
        probabilities = [float(row["left"]), float(row["right"])]
        assert probabilities == pytest.approx(expected.tolist(), abs=2e-2)  # precision auto may be bf16
        assert float(row["confidence"]) == max(probabilities)

    (tmp_path / "new" / "bad.png").write_bytes(b"no picture")
    pattern = compose_config(*settings, f"input={tmp_path}/new/*.png", config_name="predict")
    with pytest.raises(UserError, match=r"expected 15 pictures but 1 could not be read .*bad\.png"):
        pipeline.predict(pattern)
    assert read(output) == rows  # the others are predicted all the same
    assert "skipped: expected a picture but found" in capsys.readouterr().err


def test_a_picture_a_folder_and_a_pattern_name_pictures(tmp_path: Path) -> None:
    draw(tmp_path / "a" / "b", "left", 2)
    draw(tmp_path, "right", 1)
    assert [path.name for path in input_pictures(str(tmp_path / "right_0.png"))] == ["right_0.png"]
    assert len(input_pictures(str(tmp_path))) == 3
    assert len(input_pictures(f"{tmp_path}/**/*_0.png")) == 2
    assert len(input_pictures(f"{tmp_path}/a/b/left_?.png")) == 2


@pytest.mark.parametrize("pattern", ["nowhere", "empty", "*.png"])
def test_no_pictures_are_told(tmp_path: Path, pattern: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="expected pictures but found none"):
        input_pictures(str(tmp_path / pattern))


# The table.

NAMES = ("a", "file", "b, c", "confidence")  # two are called as columns are
SHARES = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.1, 0.1], [0.25, 0.25, 0.25, 0.25]])


def made(top_k: int, true: list[int | None] | None) -> Predictions:
    return Predictions(["x.png", "y z.png", "ä.png"], SHARES, NAMES, true, top_k)


def flat(path: Path) -> list[dict[str, Any]]:
    """Rows of a file of any format, each with its classes nested as in JSON."""
    if path.suffix == ".json":
        return json.loads(path.read_text())
    rows = read(path) if path.suffix == ".csv" else pyarrow.parquet.read_table(path).to_pylist()
    columns = {"file": "probability of file", "confidence": "probability of confidence"}
    found = []
    for row in rows:
        ranks = [name.removeprefix("predicted") for name in row if name.startswith("predicted")]
        nested: dict[str, Any] = {"file": row["file"]}
        if "true" in row:
            nested["true"] = row["true"] or None
        nested["predicted"] = [
            {"class": row[f"predicted{rank}"], "probability": round(float(row[f"confidence{rank}"]), 6)}
            for rank in ranks
        ]
        nested["probabilities"] = {name: round(float(row[columns.get(name, name)]), 6) for name in NAMES}
        found.append(nested)
    return found


@pytest.mark.parametrize("suffix", [".csv", ".json", ".parquet"])
@pytest.mark.parametrize("top_k", [1, 3, 4])
@pytest.mark.parametrize("true", [None, [3, None, 0]])
def test_every_format_says_the_same(
    tmp_path: Path, suffix: str, top_k: int, true: list[int | None] | None, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "deep" / f"p{suffix}"
    predictions.check_output(output)
    predictions.write(made(top_k, true), output, tmp_path / "run")
    ranked = [[3, 2, 1, 0], [0, 1, 2, 3], [0, 1, 2, 3]]  # of equal ones the first
    expected: list[dict[str, Any]] = []
    for row, file in enumerate(["x.png", "y z.png", "ä.png"]):
        values = [round(value, 6) for value in SHARES[row].tolist()]
        label = true[row] if true else None
        expected.append({"file": file} | ({"true": None if label is None else NAMES[label]} if true else {}))
        expected[row]["predicted"] = [
            {"class": NAMES[position], "probability": values[position]} for position in ranked[row][:top_k]
        ]
        expected[row]["probabilities"] = dict(zip(NAMES, values, strict=True))
    assert flat(output) == expected
    assert (tmp_path / "run").exists() == (true is not None)
    shown = capsys.readouterr().out
    assert "3 predictions" in shown and f"All predictions: {output}" in shown


def test_no_predictions_are_a_table_without_rows(tmp_path: Path) -> None:
    for suffix in predictions.WRITERS:
        predictions.write(
            Predictions([], torch.empty(0, 2), ("a", "b"), None, 1), tmp_path / f"p{suffix}", tmp_path / "run"
        )
    assert (tmp_path / "p.csv").read_text() == "file,predicted,confidence,a,b\n"
    assert json.loads((tmp_path / "p.json").read_text()) == []
    table = pyarrow.parquet.read_table(tmp_path / "p.parquet")
    assert table.column_names == ["file", "predicted", "confidence", "a", "b"] and len(table) == 0


@pytest.mark.parametrize("name", ["p.xlsx", "p", "p.csv.gz"])
def test_other_formats_are_refused_at_once(name: str) -> None:
    with pytest.raises(UserError, match=r"to end with one of \.csv, \.json, \.parquet but .*; for example output="):
        predictions.check_output(Path(name))


def test_parquet_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"expected the package pyarrow, .* install it: .*, or type output=p\.csv"):
        predictions.check_output(Path("p.parquet"))


# The matrix of a folder with class folders.


def test_class_folders_give_a_confusion_matrix(
    ckpt_path: Path, compose_config: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, folder, count in (("left", "left", 5), ("right", "right/deeper", 4), ("left", "right", 3)):
        draw(tmp_path / "new" / folder, name, count)
    draw(tmp_path / "new" / "other", "left", 2)  # no class of the checkpoint
    draw(tmp_path / "new", "right", 1)
    settings = (f"ckpt_path={ckpt_path}", f"input={tmp_path}/new", "trainer=cpu", f"paths.run_dir={tmp_path}/p")
    capsys.readouterr()
    pipeline.predict(compose_config(*settings, "top_k=2", config_name="predict"))
    rows = read(tmp_path / "p" / "predictions.csv")
    assert list(rows[0])[:6] == ["file", "true", "predicted", "confidence", "predicted_2", "confidence_2"]
    found = {Path(row["file"]).relative_to(tmp_path / "new").as_posix(): row["true"] for row in rows}
    assert found["left/left_0.png"] == "left" and found["right/deeper/right_0.png"] == "right"
    assert found["right/left_0.png"] == "right" and found["other/left_0.png"] == found["right_0.png"] == ""
    counts = (tmp_path / "p" / "confusion_matrix" / "predict.csv").read_text()
    assert counts == "true \\ predicted,left,right\nleft,5,0\nright,3,4\n"
    with Image.open(tmp_path / "p" / "confusion_matrix" / "predict.png") as picture:
        assert min(picture.size) > 200
    assert "Accuracy: 0.7500, balanced 0.7857, by the folders of 12 of 15 pictures" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["a/x", "b/y/x", "c/x", "x"], [0, 1, None, None]),
        (["c/x", "d/a/x"], None),  # only the outermost folder says the class
        (["x"], None),
    ],
)
def test_the_outermost_folder_tells_the_class(
    tmp_path: Path, files: list[str], expected: list[int | None] | None
) -> None:
    assert true_classes([tmp_path / file for file in files], tmp_path, ["a", "b"]) == expected
    assert true_classes([tmp_path / "a.png"], tmp_path / "a.png", ["a", "b"]) is None  # a file, or a pattern


def test_class_names_of_another_spelling_and_of_no_text(tmp_path: Path) -> None:
    paths = [tmp_path / "u\u0308" / "x", tmp_path / "\udcff" / "x"]
    assert true_classes(paths, tmp_path, ["\u00fc"]) == [0, None]


# Decoding.


@pytest.mark.parametrize("batch_size", [1, 3, 100])
@pytest.mark.parametrize("threads", [1, 4, None])
def test_batches_hold_the_pictures_in_order(tmp_path: Path, batch_size: int, threads: int | None) -> None:
    draw(tmp_path, "left", 10)
    paths = sorted(tmp_path.iterdir())
    for bad in (0, 4, 9):
        paths[bad].write_bytes(b"no picture")
    form = PictureForm.make((3, 12, 12))
    batches = PictureBatches(paths, form, batch_size, threads)
    images = torch.cat(list(batches))
    assert batches.decoded == [1, 2, 3, 5, 6, 7, 8] and batches.unreadable == [paths[bad] for bad in (0, 4, 9)]
    assert torch.equal(images, torch.stack([read_picture(paths[index], form) for index in batches.decoded]))


def test_pictures_are_decoded_side_by_side_and_not_far_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first three meet at a barrier, which none would pass alone; a reader that stops leaves the rest undecoded."""
    meeting = threading.Barrier(3, timeout=20)
    read: list[Path] = []

    def wait(path: Path, form: PictureForm) -> torch.Tensor:
        if int(path.name) < 3:
            meeting.wait()
        read.append(path)
        return torch.zeros(1, 2, 2, dtype=torch.uint8)

    monkeypatch.setattr("image_classifier.engine.images.unlabelled.read_picture", wait)
    batches = iter(PictureBatches([Path(str(index)) for index in range(300)], PictureForm.make((1, 2, 2)), 3, 3))
    for _ in range(2):
        assert len(next(batches)) == 3
    batches.close()  # type: ignore[attr-defined]
    assert len(read) <= 4 * 3
