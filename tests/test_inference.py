"""A checkpoint in three lines of Python: paths, images, arrays and tensors, one or many, without Hydra."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from image_classifier import pipeline
from image_classifier.engine.errors import UserError
from image_classifier.inference import TrainedModel, load_model
from tiny import TINY


@pytest.fixture(scope="module")
def ckpt_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained on pictures of two colours in colour."""
    from image_classifier.engine.launch.configuration import compose

    directory = tmp_path_factory.mktemp("inference")
    for name, channel in (("red", 0), ("blue", 2)):
        (directory / "pictures" / name).mkdir(parents=True)
        for index in range(20):
            pixels = np.random.default_rng(index).integers(100, size=(12, 12, 3), dtype=np.uint8)
            pixels[..., channel] += 150
            Image.fromarray(pixels).save(directory / "pictures" / name / f"{index}.png")
    settings = [value for value in TINY if not value.startswith("data")]
    data = ("data=image_folder", f"data.root={directory}/pictures", "data.image_size=12", "data.batch_size=8")
    plain = ("logger=none", "confusion_matrix=none", "test=false", f"paths.run_dir={directory}/run")
    pipeline.train(compose("train", [*settings, *data, *plain, "trainer.max_epochs=4", "trainer.precision=32-true"]))
    return directory / "run" / "checkpoints" / "best.ckpt"


@pytest.fixture(scope="module")
def model(ckpt_path: Path) -> TrainedModel:
    return load_model(ckpt_path)


def colour(name: str, height: int = 12, width: int = 12) -> np.ndarray:
    pixels = np.full((height, width, 3), 40, dtype=np.uint8)
    pixels[..., {"red": 0, "blue": 2}[name]] = 220
    return pixels


def saved(array: np.ndarray, path: Path) -> Path:
    Image.fromarray(array).save(path)
    return path


FORMS: dict[str, Callable[[np.ndarray, Path], Any]] = {
    "path": lambda array, directory: saved(array, directory / "a.png"),
    "text": lambda array, directory: str(saved(array, directory / "a.png")),
    "image": lambda array, directory: Image.fromarray(array),
    "opened": lambda array, directory: Image.open(saved(array, directory / "a.png")),
    "palette": lambda array, directory: Image.fromarray(array).quantize(4),
    "array": lambda array, directory: array,
    "strided": lambda array, directory: np.repeat(array, 2, axis=2)[..., ::2],
    "tensor": lambda array, directory: torch.from_numpy(array).permute(2, 0, 1),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [(12, 12), (30, 17)])
@pytest.mark.parametrize("name", ["red", "blue"])
def test_every_form_of_an_image_is_the_same_image(
    model: TrainedModel, tmp_path: Path, form: str, size: tuple[int, int], name: str
) -> None:
    (prediction,) = model.predict(FORMS[form](colour(name, *size), tmp_path))
    assert prediction.class_name == name
    assert prediction.confidence == max(prediction.probabilities.values()) > 0.5
    assert list(prediction.probabilities) == sorted(model.class_names, key=lambda other: other != name)
    assert sum(prediction.probabilities.values()) == pytest.approx(1)
    assert prediction.probabilities == pytest.approx(model.predict([colour(name, *size)])[0].probabilities, abs=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 100])
def test_many_keep_their_order(model: TrainedModel, batch_size: int) -> None:
    names = ["red", "blue", "blue", "red", "blue"]
    arrays = [colour(name) for name in names]
    for images in (arrays, iter(arrays), np.stack(arrays), torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)):
        assert [prediction.class_name for prediction in model.predict(images, batch_size)] == names
    assert model.predict([], batch_size) == []


def test_probabilities_by_hand(model: TrainedModel, ckpt_path: Path) -> None:
    recipe = torch.load(ckpt_path, weights_only=True)["recipe"]
    mean, std = (torch.tensor(recipe[name], dtype=torch.float64).view(-1, 1, 1) for name in ("mean", "std"))
    images = torch.from_numpy(np.random.default_rng(3).integers(256, size=(4, 3, 12, 12), dtype=np.uint8))
    with torch.no_grad():
        expected = model.network(((images.double() / 255 - mean) / std).float()).softmax(1)
    torch.testing.assert_close(model.probabilities(images), expected, atol=1e-6, rtol=0)


def test_as_predict_says(
    model: TrainedModel, ckpt_path: Path, tmp_path: Path, compose_config: Callable[..., Any]
) -> None:
    import csv

    for index in range(5):
        array = np.random.default_rng(index).integers(256, size=(20 + index, 15, 3), dtype=np.uint8)
        saved(array, tmp_path / f"{index}.png")
    settings = (f"ckpt_path={ckpt_path}", f"input={tmp_path}", f"output={tmp_path}/p.csv", "trainer=cpu")
    pipeline.predict(compose_config(*settings, config_name="predict"))
    with (tmp_path / "p.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row, prediction in zip(rows, model.predict([row["file"] for row in rows]), strict=True):
        assert row["predicted"] == prediction.class_name
        assert float(row["red"]) == pytest.approx(prediction.probabilities["red"], abs=2e-6)


def test_a_photo_is_turned_upright_also_when_it_is_opened_already(model: TrainedModel, tmp_path: Path) -> None:
    array = colour("red", 10, 30)
    array[:, 15:] = colour("blue", 10, 15)
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.fromarray(array).save(tmp_path / "turned.png", exif=exif)
    by_path, opened = model.pixels(tmp_path / "turned.png"), model.pixels(Image.open(tmp_path / "turned.png"))
    assert torch.equal(by_path, opened) and not torch.equal(by_path, model.pixels(array))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((12, 12, 3)), "uint8 pixels but got ndarray of float64"),
        (torch.zeros(3, 12, 12), "uint8 pixels but got Tensor of float32"),
        ([3], "uint8 pixels but got int"),
        ([np.zeros((12, 12, 5), np.uint8)], r"but got \(12, 12, 5\)"),
        (np.zeros((2, 3, 4, 5, 6), np.uint8), r"but got \(3, 4, 5, 6\)"),
    ],
)
def test_what_is_no_image_is_refused(model: TrainedModel, image: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        model.predict(image)


def test_files_that_are_none(model: TrainedModel, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"expected a picture but found .*a\.png"):
        model.predict(tmp_path / "a.png")
    with pytest.raises(UserError, match="expected a checkpoint"):
        load_model(tmp_path / "none.ckpt")


def test_neither_hydra_nor_the_pipeline_is_imported(ckpt_path: Path) -> None:
    code = (
        "import sys; from image_classifier.inference import load_model; import numpy as np;"
        f"print(load_model({str(ckpt_path)!r}).predict(np.zeros((12, 12, 3), np.uint8))[0].class_name);"
        "print(sorted({name.split('.')[0] for name in sys.modules} & {'hydra', 'omegaconf', 'matplotlib', 'rich'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    name, imported = done.stdout.splitlines()
    assert name in ("red", "blue") and not {"hydra", "omegaconf"} & set(eval(imported))
