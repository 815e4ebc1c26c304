"""Predictions for picture files, made from a checkpoint alone."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from image_classifier import pipeline
from image_classifier.engine.errors import UserError
from image_classifier.engine.runs.predictions import input_pictures
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
