"""Each form of the confusion matrix in each logger, read back and compared with scikit-learn's matrix.

The comparison shares nothing with the callback: the checkpoint is loaded again and its predictions counted anew.
"""

import io
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from PIL import Image
from readers import READERS, NoneReader, Reader, TensorBoardReader, WandbReader
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from image_classifier import pipeline
from image_classifier.engine.figures.confusion_matrix import draw_confusion_matrix
from image_classifier.engine.images.normalization import normalize
from image_classifier.engine.launch.configuration import CONFIG_DIR  # and registers the resolvers
from image_classifier.engine.loggers.tensorboard import TensorBoardLogger
from tiny import TINY

NAMES = [f"class {index}" for index in range(4)]
LOGGERS = list(READERS)
STAGES = ("val", "test")


class Run:
    """A finished run, what its logger wrote, and what it should have written."""

    def __init__(self, logger: str, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.reader: Reader = READERS[logger](run_dir)
        # The validation of the last epoch saw the weights of the last checkpoint; the test those of the best one.
        self.expected = {
            "val": true_matrix(run_dir / "checkpoints" / "last.ckpt", "val"),
            "test": true_matrix(run_dir / "checkpoints" / "best.ckpt", "test"),
        }
        checkpoint = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)
        self.step: int = checkpoint["global_step"]


def true_matrix(checkpoint: Path, stage: str) -> np.ndarray:
    model, data = pipeline.load_run(str(checkpoint))
    data.setup("fit" if stage == "val" else "test")
    loader = data.val_dataloader() if stage == "val" else data.test_dataloader()
    truth, predicted = [], []
    with torch.no_grad():
        for images, labels in loader:
            truth += labels.tolist()
            predicted += model.eval()(normalize(images, data.mean, data.std)).argmax(1).tolist()
    return confusion_matrix(truth, predicted, labels=range(len(data.class_names)))


@pytest.fixture(scope="module")
def run_with(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:
    @cache
    def train(logger: str, *overrides: str) -> Run:
        run_dir = tmp_path_factory.mktemp(logger)
        with initialize_config_dir(CONFIG_DIR):
            common = (f"paths.run_dir={run_dir}", f"logger={logger}", "trainer.precision=32-true", "data.batch_size=32")
            pipeline.train(compose("train", overrides=[*TINY, *common, *overrides]))
        return Run(logger, run_dir)

    return train


@pytest.fixture(params=LOGGERS)
def everything(request: pytest.FixtureRequest, run_with: Callable[..., Run]) -> Run:
    return run_with(request.param, "confusion_matrix=all", "confusion_matrix.normalize=[none,true]")


def as_matrix(table: dict[str, dict[str, float]]) -> np.ndarray:
    return np.array([[table[predicted][true] for predicted in NAMES] for true in NAMES])


def row_shares(counts: np.ndarray) -> np.ndarray:
    return counts / np.maximum(counts.sum(1, keepdims=True), 1)


@pytest.mark.sampled(every=3)
@pytest.mark.parametrize("stage", STAGES)
def test_matrices_tell_rows_from_columns(everything: Run, stage: str) -> None:
    assert (everything.expected[stage] != everything.expected[stage].T).any()


@pytest.mark.parametrize("stage", STAGES)
def test_scalars_are_the_cells(everything: Run, stage: str) -> None:
    scalars = everything.reader.scalars()
    if isinstance(everything.reader, NoneReader):
        assert not scalars
        return
    for prefix, values in (
        (f"confusion_matrix/{stage}", everything.expected[stage]),
        (f"confusion_matrix_normalized_true/{stage}", row_shares(everything.expected[stage])),
    ):
        written = [
            [scalars[f"{prefix}/class_{true}/class_{predicted}"][everything.step] for predicted in range(4)]
            for true in range(4)
        ]
        np.testing.assert_allclose(written, values, rtol=1e-6)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(("infix", "mode"), [("", "none"), ("_normalized_true", "true")])
def test_picture_is_that_of_the_matrix(everything: Run, stage: str, infix: str, mode: str) -> None:
    counts = everything.expected[stage]
    epoch = "val, epoch 2" if stage == "val" else "test"
    title = f"{epoch}, accuracy {counts.trace() / counts.sum():.2%}"
    expected = draw_confusion_matrix(torch.from_numpy(counts), NAMES, mode, title)  # type: ignore[arg-type]
    written = everything.reader.image(f"confusion_matrix{infix}/{stage}", everything.step)
    np.testing.assert_array_equal(written, expected)


@pytest.mark.parametrize("stage", STAGES)
def test_table_is_nested_by_predicted_then_true_class(everything: Run, stage: str) -> None:
    counts, reader = everything.expected[stage], everything.reader
    raw = reader.table(f"confusion_matrix_table/{stage}", everything.step)
    shares = reader.table(f"confusion_matrix_table_normalized_true/{stage}", everything.step)
    np.testing.assert_array_equal(as_matrix(raw), counts)
    digits = 5e-5 if isinstance(reader, TensorBoardReader) else 1e-12  # Markdown shows four
    np.testing.assert_allclose(as_matrix(shares), row_shares(counts), atol=digits)


def test_table_has_epoch_and_accuracy_beside_it(run_with: Callable[..., Run]) -> None:
    options = ("confusion_matrix=all", "confusion_matrix.normalize=[none,true]")
    for logger in ("wandb", "mlflow", "tensorboard", "trackio"):
        run = run_with(logger, *options)
        counts = run.expected["val"]
        accuracy = counts.trace() / counts.sum()
        beside = run.reader.beside("confusion_matrix_table/val", run.step)
        assert beside == {"epoch": 2, "acc": pytest.approx(accuracy, rel=1e-4)}, logger


@pytest.mark.parametrize("logger", LOGGERS)
def test_chart_is_interactive_or_gives_way_to_the_picture(
    run_with: Callable[..., Run], logger: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_with(logger, "confusion_matrix=chart")
    said = capsys.readouterr().out.count("no interactive chart")
    for stage in STAGES:
        if isinstance(run.reader, WandbReader):
            written = as_matrix(run.reader.chart(f"confusion_matrix_chart/{stage}", run.step))
            np.testing.assert_array_equal(written, run.expected[stage])
        assert run.reader.has_image(f"confusion_matrix/{stage}") == (logger != "wandb")
    assert said == (logger != "wandb")


def test_scalars_per_class_agree_with_scikit_learn(everything: Run) -> None:
    scalars = everything.reader.scalars()
    if isinstance(everything.reader, NoneReader):
        return
    counts = everything.expected["test"]
    truth = [row for row in range(4) for column in range(4) for _ in range(counts[row, column])]
    predicted = [column for row in range(4) for column in range(4) for _ in range(counts[row, column])]
    figures = precision_recall_fscore_support(truth, predicted, labels=range(4), zero_division=0)
    for name, values in zip(("precision", "recall", "f1"), figures[:3], strict=True):
        written = [scalars[f"per_class/test/{name}/class_{index}"][everything.step] for index in range(4)]
        np.testing.assert_allclose(written, values, rtol=1e-6)


def test_final_metrics_reach_every_logger(everything: Run) -> None:
    if isinstance(everything.reader, NoneReader):
        return
    final = everything.reader.final_metrics()
    counts = everything.expected["test"]
    assert math.isclose(final["test/acc"], counts.trace() / counts.sum(), rel_tol=1e-6)
    assert {"val/acc", "epochs", "fit_seconds"} <= set(final)


def test_saved_counts_are_raw_whatever_the_form(everything: Run) -> None:
    header, *rows = (everything.run_dir / "confusion_matrix" / "test.csv").read_text().splitlines()
    assert header.split(",")[1:] == NAMES
    written = [[int(cell) for cell in row.split(",")[1:]] for row in rows]
    np.testing.assert_array_equal(written, everything.expected["test"])


PIXELS = np.random.default_rng(1).integers(0, 256, (5, 7, 4), dtype=np.uint8)


@pytest.mark.parametrize(
    "image",
    [PIXELS[..., :3], PIXELS[..., :1], PIXELS, PIXELS[..., :3] / 255.0, torch.from_numpy(PIXELS[..., :3].copy())],
    ids=["RGB", "grey", "transparent", "float", "tensor"],
)
def test_tensorboard_takes_the_pictures_that_its_writer_takes(tmp_path: Path, image: Any) -> None:
    logger = TensorBoardLogger(str(tmp_path))
    logger.log_image("picture", [image], 3)
    logger.close()
    events = EventAccumulator(logger.log_dir).Reload()
    (event,) = events.Images("picture")
    shown = np.asarray(Image.open(io.BytesIO(event.encoded_image_string)))
    channels = image.shape[-1]
    expected = PIXELS[..., [0, 0, 0] if channels == 1 else range(channels)]  # the writer makes grey ones RGB
    assert (event.step, shown.shape) == (3, expected.shape)
    assert np.abs(shown.astype(int) - expected).max() <= 1  # floats are cut off, not rounded
