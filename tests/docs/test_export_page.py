"""The Python of docs/export.md runs as it stands there, and all three ways say the same."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from image_classifier.engine.checkpoint import load_model, read_checkpoint
from image_classifier.engine.export import PixelsToProbabilities, export_metadata, export_network
from image_classifier.engine.project import PROJECT_ROOT
from tiny import TINY

PAGE = (PROJECT_ROOT / "docs" / "export.md").read_text()
ONNX, TORCH, OURS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def directory(train: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the files of the page lie."""
    run_dir = train(*TINY, "logger=none", "confusion_matrix=none", "test=false")
    shutil.copy(run_dir / "checkpoints" / "best.ckpt", tmp_path / "best.ckpt")
    checkpoint = read_checkpoint(str(tmp_path / "best.ckpt"))
    recipe = checkpoint["recipe"]
    network = PixelsToProbabilities(load_model(checkpoint), recipe["mean"], recipe["std"])
    for name in ("best.onnx", "best.pt2"):
        images = torch.randint(256, (3, *recipe["image_shape"]), dtype=torch.uint8)
        export_network(network, images, tmp_path / name, export_metadata(recipe))
    values = np.random.default_rng(0).integers(256, size=(13, 21, 3), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "picture.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_onnxruntime_and_this_project_say_the_same(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    said = []
    for code in (ONNX, OURS):
        exec(compile(code, "export.md", "exec"), {})
        name, _, probability = capsys.readouterr().out.strip().rpartition(" ")
        said.append((name, float(probability)))
    assert said[0][0] == said[1][0] and said[0][0].startswith("class ")
    assert said[0][1] == pytest.approx(said[1][1], abs=1e-6)


def test_torch_alone(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    exec(compile(TORCH, "export.md", "exec"), {})
    assert len(re.findall(r"'class \d'", capsys.readouterr().out)) == 5


def test_ten_lines_are_enough() -> None:
    assert len([line for line in ONNX.splitlines() if line and "import" not in line]) <= 10
