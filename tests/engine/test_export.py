"""Exported networks, run by onnxruntime and by torch alone, say what the network says."""

import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from image_classifier import pipeline
from image_classifier.engine.errors import UserError
from image_classifier.engine.export import PixelsToProbabilities, export_network, export_paths, first_images
from image_classifier.models.classifier import Classifier
from image_classifier.models.cnn import CNN
from image_classifier.models.mlp import MLP
from image_classifier.models.resnet import resnet
from image_classifier.models.timm import TimmNetwork
from image_classifier.models.wide_resnet import WideResNet
from tiny import TINY

MEAN, STD = (0.2, 0.4, 0.6), (0.3, 0.25, 0.2)


def resized_network() -> nn.Module:
    """As of timm: images are resized, and normalised once more."""
    convolution = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    network = nn.Sequential(convolution, nn.Flatten(), nn.Linear(4, 5))
    return TimmNetwork(network, (31, 17), torch.full((3, 1, 1), 1.5), torch.full((3, 1, 1), -0.25))


NETWORKS: dict[str, Callable[[], Classifier]] = {
    "mlp": lambda: Classifier(MLP((3, 12, 10), 5, hidden_sizes=[7])),
    "cnn": lambda: Classifier(CNN((3, 12, 10), 5, channels=[4, 6], hidden_size=7), channels_last=True),
    "mirrored": lambda: Classifier(CNN((3, 12, 10), 5, channels=[4], hidden_size=7), test_time_flip=True),
    "resized": lambda: Classifier(resized_network()),
    "wide_resnet": lambda: Classifier(WideResNet((3, 12, 10), 5, depth=10, width=1)),
    "double": lambda: Classifier(MLP((3, 12, 10), 5, hidden_sizes=[7])).double(),
    "half": lambda: Classifier(MLP((3, 12, 10), 5, hidden_sizes=[7])).to(torch.bfloat16),
}


def pixels(count: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(count).integers(256, size=(count, 3, 12, 10), dtype=np.uint8))


def settled(model: Classifier) -> Classifier:
    """With statistics of its own in the batch normalisation, else it would do nothing."""
    model.train()
    with torch.no_grad():
        model(torch.randn(16, 3, 12, 10) * 2 + 1)
    return model.eval()


def expected(model: Classifier, images: Tensor) -> np.ndarray:
    """Probabilities by another way: normalised in double precision, softmax by hand."""
    mean, std = (np.array(values)[:, None, None] for values in (MEAN, STD))
    normalised = (images.numpy() / 255 - mean) / std
    with torch.no_grad():
        logits = model(torch.from_numpy(normalised).float()).double().numpy()
    shares = np.exp(logits - logits.max(1, keepdims=True))
    return shares / shares.sum(1, keepdims=True)


def run(path: Path, images: Tensor) -> np.ndarray:
    if path.suffix == ".onnx":
        return onnxruntime.InferenceSession(path).run(None, {"images": images.numpy()})[0]
    with torch.no_grad():
        return torch.export.load(path).module()(images).numpy()


@pytest.mark.sampled(every=3)
@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
@pytest.mark.parametrize("name", NETWORKS)
def test_file_says_what_the_network_says_for_any_number_of_images(tmp_path: Path, name: str, suffix: str) -> None:
    torch.manual_seed(0)
    model = settled(NETWORKS[name]())
    path = tmp_path / "deep" / f"{name}{suffix}"
    told = export_network(PixelsToProbabilities(model, MEAN, STD), pixels(9), path, {"a": "1"})
    assert float(re.findall(r"probability is (\S+),", told)[0]) < 1e-5 and "and 9 have the same class" in told
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    for count in (1, 2, 7):
        found = run(path, pixels(count))
        assert found.dtype == np.float32 and found.shape == (count, 5)
        np.testing.assert_allclose(found, expected(model, pixels(count)), atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_resnet(tmp_path: Path, suffix: str) -> None:
    model = settled(Classifier(resnet((3, 12, 10), 5, name="resnet18", small_images=True)))
    path = tmp_path / f"resnet{suffix}"
    export_network(PixelsToProbabilities(model, MEAN, STD), pixels(3), path, {})
    np.testing.assert_allclose(run(path, pixels(4)), expected(model, pixels(4)), atol=1e-5)


class Undecided(nn.Module):
    """Cannot be traced: what it does depends on the values."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3)) if images.sum() > 0 else -images.amax((2, 3))


class DependsOnMode(nn.Module):
    """Says something else when it is not run by Python."""

    def forward(self, images: Tensor) -> Tensor:
        logits = images.mean((2, 3))
        return logits if torch.compiler.is_compiling() else logits.flip(1)


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Undecided(), "expected a network that can be written as .* but found .*; choose the other format: output="),
        (DependsOnMode(), "expected model.* within 0.001 but found a difference of 0"),
    ],
)
def test_networks_that_do_not_survive_leave_no_file(
    tmp_path: Path, network: nn.Module, message: str, suffix: str
) -> None:
    with pytest.raises(UserError, match=message):
        export_network(PixelsToProbabilities(network, MEAN, STD), pixels(5), tmp_path / f"model{suffix}", {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (None, ["run/best=3.onnx", "run/best=3.pt2"]),
        ("new/model.onnx", ["new/model.onnx"]),
        ("new/model.pt2", ["new/model.pt2"]),
        ("new/model", ["new/model.onnx", "new/model.pt2"]),
        ("run", ["run/best=3.onnx", "run/best=3.pt2"]),
    ],
)
def test_where_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str | None, expected: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    assert export_paths(output, "run/best=3.ckpt") == [Path(path) for path in expected]


def test_other_formats_are_refused() -> None:
    with pytest.raises(UserError, match=r"to end with .onnx or .pt2 but found model.tflite; for example output="):
        export_paths("model.tflite", "best.ckpt")


@pytest.mark.parametrize(("output", "refused"), [(None, True), ("a.onnx", True), ("a.pt2", False)])
def test_missing_packages_are_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, output: str | None, refused: bool
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else find(name))
    if not refused:
        export_paths(output, "best.ckpt")
        return
    with pytest.raises(UserError, match=r"but found no onnxscript; install them: .* or .*output=\w+.pt2") as caught:
        export_paths(output, "best.ckpt")
    assert "\n" not in str(caught.value)


def test_the_first_images_are_taken() -> None:
    assert torch.equal(first_images([pixels(3), pixels(4), pixels(5)], 5), torch.cat([pixels(3), pixels(4)])[:5])
    assert len(first_images([pixels(3)], 5)) == 3
    with pytest.raises(UserError, match="images to check the exported network with but found none"):
        first_images([], 5)


@pytest.fixture
def ckpt_path(train: Callable[..., Path]) -> Path:
    settings = ("logger=none", "confusion_matrix=none", "trainer.max_epochs=1", "test=false")
    return train(*TINY, *settings) / "checkpoints" / "best.ckpt"


def test_command_writes_beside_the_checkpoint_with_what_its_user_must_know(
    ckpt_path: Path, compose_config: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline.export(compose_config(f"ckpt_path={ckpt_path}", "check_images=20", config_name="export"))
    lines = capsys.readouterr().out.strip().splitlines()[-2:]
    for line, suffix in zip(lines, (".onnx", ".pt2"), strict=True):
        path = ckpt_path.with_suffix(suffix)
        assert line.startswith(f"{path}: 0.") and "on 20 real images the largest difference" in line and path.is_file()
    session = onnxruntime.InferenceSession(ckpt_path.with_suffix(".onnx"))
    (given,), (returned,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, given.shape) == ("images", "tensor(uint8)", ["batch", 1, 8, 8])
    assert (returned.name, returned.type, returned.shape) == ("probabilities", "tensor(float)", ["batch", 4])
    metadata = {name: json.loads(value) for name, value in session.get_modelmeta().custom_metadata_map.items()}
    assert metadata == {
        "class_names": [f"class {index}" for index in range(4)],
        "image_shape": [1, 8, 8],
        "colors": "grey",
        "fit": "crop",
        "background": "white",
        "mean": [0.5],
        "std": [0.25],
    }
    extra = {"metadata.json": ""}
    torch.export.load(ckpt_path.with_suffix(".pt2"), extra_files=extra)
    assert json.loads(extra["metadata.json"]) == metadata


def test_checked_with_pictures_instead_of_the_data(
    ckpt_path: Path, compose_config: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    for index in range(3):
        values = np.random.default_rng(index).integers(256, size=(9, 9, 3), dtype=np.uint8)
        Image.fromarray(values).save(tmp_path / f"{index}.png")
    settings = (f"ckpt_path={ckpt_path}", f"input={tmp_path}/*.png", f"output={tmp_path}/small.pt2")
    pipeline.export(compose_config(*settings, config_name="export"))
    assert f"{tmp_path}/small.pt2: 0.0 MiB; on 3 real images" in capsys.readouterr().out
