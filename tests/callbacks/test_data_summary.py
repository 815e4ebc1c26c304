"""The summary of the data is told before the training, and lies in the run directory."""

import html
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from image_classifier import pipeline
from image_classifier.engine.errors import UserError
from image_classifier.engine.runs.page import write_report
from tiny import TINY

FOLDER = (
    *(override for override in TINY if not override.startswith("data")),
    *("data=image_folder", "data.image_size=[10,12]", "data.batch_size=8", "data.num_workers=0", "logger=none"),
)


def draw(root: Path) -> Path:
    """Two classes in three parts, one without a picture for validation; two bad files, two copies, a text."""
    for part, count in (("train", 12), ("val", 3), ("test", 3)):
        for label, name in enumerate(("cat", "dog")):
            folder = root / part / name
            folder.mkdir(parents=True)
            for index in range(count):
                colour = (90 * label + 40, index * 9, 3 * len(part))
                Image.new("RGB", (20 + index, 16), colour).save(folder / f"{index:02}.png")
    for path in (root / "val" / "dog").iterdir():
        path.unlink()
    shutil.copy(root / "train" / "cat" / "03.png", root / "test" / "cat" / "copy.png")
    shutil.copy(root / "train" / "cat" / "05.png", root / "train" / "dog" / "copy.png")
    (root / "train" / "cat" / "00.png").write_bytes(b"no picture")
    (root / "test" / "dog" / "00.png").write_bytes(b"")
    (root / "train" / "cat" / "notes.txt").touch()
    return root


@pytest.mark.parametrize("in_memory", ["true", "false"])
def test_own_pictures(
    tmp_path: Path, compose_config: Callable[..., Any], in_memory: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = draw(tmp_path / "pictures")
    settings = [*FOLDER, f"data.root={root}", f"data.in_memory={in_memory}", "data.mean=auto", "data.std=auto"]
    cfg = compose_config(*settings, "data.on_error=skip", "trainer.max_epochs=1")
    pipeline.train(cfg)
    content = json.loads((tmp_path / "run" / "data_summary.json").read_text())
    assert content["classes"] == {
        "cat": {"train": 11, "val": 3, "test": 4},
        "dog": {"train": 13, "val": 0, "test": 2},
    }
    assert content["source"] == str(root) and content["image_shape"] == [3, 10, 12]
    assert content["sizes"] == {"smallest": [20, 16], "median": [24, 16], "largest": [31, 16], "different": 12}
    assert content["modes"] == {"RGB": 33} and content["skipped"] == {".txt": 1}
    assert {bad["picture"] for bad in content["unreadable"]} == {"train/cat/00.png", "test/dog/00.png"}
    assert content["duplicates"] == [["train/cat/03.png", "test/cat/copy.png"]] and content["duplicated"] == 1
    assert content["conflicts"] == [["train/cat/05.png", "train/dog/copy.png"]]
    assert content["split"] == {"val": "a part of its own", "test": "a part of its own"}
    assert content["normalisation"]["from"] == "measured from training pictures"
    assert content["memory"]["bytes"] == 33 * 360 and content["memory"]["where"].startswith(
        "in memory" if in_memory == "true" else "not kept"
    )
    warnings = "\n".join(content["warnings"])
    for expected in ("no images of dog in val", "few training images of cat (11), dog (13)", "1 image in two parts"):
        assert expected in warnings
    page = html.unescape(write_report(tmp_path / "run", png=False).read_text())
    assert all(f"<li>{warning}</li>" in page for warning in content["warnings"])
    assert "<tr><td>dog</td><td>13</td><td>0</td><td>2</td></tr>" in page and "<li>Skipped: 1 .txt</li>" in page
    assert "<li>Split: val: a part of its own; test: a part of its own</li>" in page
    told = capsys.readouterr().out
    assert told.count("none of dog for validation") == 1 and "no images of dog" not in told
    assert told.count("2 pictures cannot be decoded and are left out: train/cat/00.png (cannot identify") == 1
    assert told.count("warning: 1 image in two parts of the data") == 1
    assert told.index("Normalisation: mean") < told.index("Final figures")
    checkpoint = tmp_path / "run" / "checkpoints" / "best.ckpt"
    recipe = torch.load(checkpoint, weights_only=True)["recipe"]
    assert recipe["mean"] == content["normalisation"]["mean"] and recipe["data"]["mean"] == "auto"
    rows = (tmp_path / "run" / "confusion_matrix" / "test.csv").read_text().splitlines()[1:]
    assert sum(int(cell) for row in rows for cell in row.split(",")[1:]) == 6
    (eval_cfg := compose_config(f"ckpt_path={checkpoint}", config_name="eval")).paths.run_dir = str(tmp_path / "eval")
    evaluated = pipeline.evaluate(eval_cfg)
    assert evaluated == json.loads((tmp_path / "run" / "metrics.json").read_text())["test/acc"]


@pytest.mark.parametrize("in_memory", ["true", "false"])
def test_all_bad_pictures_of_all_parts_are_named_at_once(
    tmp_path: Path, compose_config: Callable[..., Any], in_memory: str
) -> None:
    root = draw(tmp_path / "pictures")
    cfg = compose_config(*FOLDER, f"data.root={root}", f"data.in_memory={in_memory}")
    with pytest.raises(UserError) as told:
        pipeline.train(cfg)
    message = str(told.value)
    assert message.startswith(f"expected pictures in {root} but found 2 that cannot be decoded: train/cat/00.png (")
    assert "test/dog/00.png (" in message and message.endswith("or leave them out: data.on_error=skip")
    assert "\n" not in message


@pytest.mark.parametrize("test", ["true", "false"])
def test_generated_images(train: Callable[..., Path], test: str) -> None:
    run = train("logger=none", f"test={test}", "data.num_samples=100", "data.imbalance=30", "trainer.max_epochs=1")
    content = json.loads((run / "data_summary.json").read_text())
    counts = content["classes"].values()
    assert sum(sum(parts.values()) for parts in counts) == (100 if test == "true" else 80)
    assert sum(parts["val"] for parts in counts) == 20 and content["source"] == "Synthetic"
    assert any("more training images of class 0 than of" in warning for warning in content["warnings"])
    assert content["sizes"] == content["modes"] == content["skipped"] == {} and content["duplicated"] == 0


def test_same_image_in_two_parts_of_images_in_memory(
    train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from image_classifier.data.synthetic import Synthetic

    load = Synthetic.load_test_images

    def with_a_training_image(self: Synthetic) -> Any:
        images, labels = (part.clone() for part in load(self))
        images[5] = self.load_train_images().images[7]
        return type(load(self))(images, labels)

    monkeypatch.setattr(Synthetic, "load_test_images", with_a_training_image)
    content = json.loads((train("logger=none", "trainer.max_epochs=1") / "data_summary.json").read_text())
    assert content["duplicates"] == [["7", str(160 + 5)]]
