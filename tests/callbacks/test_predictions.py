"""The table of every sample, against an independent computation with scikit-learn and numpy."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss

from image_classifier import pipeline
from image_classifier.callbacks.predictions import Predictions
from image_classifier.engine.confusion.history import MatrixHistory
from image_classifier.engine.confusion.matrix import from_csv
from image_classifier.engine.errors import UserError
from image_classifier.engine.runs.sample_table import SampleTable, read_table
from tiny import TINY

QUICK = ("logger=none", "callbacks.learning_rate_monitor=null")


def table_of(run_dir: Path, stage: str) -> SampleTable:
    _, names = from_csv((run_dir / "confusion_matrix" / f"{stage}.csv").read_text())
    table = read_table(run_dir, stage, names)
    assert table is not None
    return table


def counts_of(run_dir: Path, stage: str) -> np.ndarray:
    return from_csv((run_dir / "confusion_matrix" / f"{stage}.csv").read_text())[0].numpy()


@pytest.mark.parametrize("samples", [1, 63, 150])
@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("unlabelled", [0, 3])
def test_every_sample_has_its_row(
    run_test: Callable, tmp_path: Path, samples: int, classes: int, unlabelled: int
) -> None:
    generator = torch.Generator().manual_seed(samples)
    logits = torch.randint(0, 12, (samples, classes), generator=generator)
    targets = torch.randint(0, classes, (samples,), generator=generator)
    targets[1 : 1 + unlabelled] = -100
    run_test(logits, targets, Predictions(str(tmp_path)), batch_size=40)
    table = read_table(tmp_path, "test", [f"class {index}" for index in range(classes)])
    assert table is not None
    probabilities = np.exp(logits.double().numpy()) / np.exp(logits.double().numpy()).sum(1, keepdims=True)
    known = targets.numpy() >= 0
    assert list(table.samples) == [str(index) for index in range(samples)]
    assert np.array_equal(table.true, np.where(known, targets.numpy(), -1))
    assert np.array_equal(table.predicted, logits.numpy().argmax(1))
    np.testing.assert_allclose(table.confidence, probabilities.max(1), rtol=1e-6)
    others = probabilities.copy()
    others[np.arange(samples), table.predicted] = -1
    assert np.array_equal(table.second, others.argmax(1))
    assert np.isnan(table.loss[~known]).all()
    if known.any():
        expected = log_loss(targets[known].numpy(), probabilities[known], labels=range(classes))
        assert table.loss[known].mean() == pytest.approx(expected, rel=1e-5)


def test_a_run_leaves_best_epoch_test_and_history(train: Callable[..., Path]) -> None:
    run_dir = train("trainer.max_epochs=3", *QUICK)
    metrics = json.loads((run_dir / "metrics.json").read_text())
    for stage in ("val", "test"):
        table = table_of(run_dir, stage)
        assert np.array_equal(table.counts(), counts_of(run_dir, stage))
        assert (table.true == table.predicted).mean() == pytest.approx(metrics[f"{stage}/acc"], rel=1e-6)
        assert table.loss.mean() == pytest.approx(metrics[f"{stage}/loss"], rel=1e-5)
        assert list(map(int, table.samples)) == sorted(map(int, table.samples))
    history = MatrixHistory.from_bytes((run_dir / "confusion_matrix" / "val_epochs.npz").read_bytes())
    assert list(history.matrices) == [1, 2, 3]
    assert {int(counts.sum()) for _, counts in history.matrices.values()} == {len(table_of(run_dir, "val").samples)}


def test_samples_are_those_of_the_data(train: Callable[..., Path], compose_config: Callable) -> None:
    run_dir = train(*QUICK)
    cfg = compose_config(f"ckpt_path={run_dir}/checkpoints/best.ckpt", "callbacks=none", config_name="eval")
    _, datamodule = pipeline.load_run(cfg.ckpt_path)
    for stage, setup in (("val", "fit"), ("test", "test")):
        datamodule.setup(setup)
        table = table_of(run_dir, stage)
        data = datamodule.test_images if stage == "test" else datamodule.train_images
        assert data is not None
        indices = torch.tensor(list(map(int, table.samples)))
        assert np.array_equal(table.true, data.labels[indices].numpy())
        assert torch.equal(datamodule.stored_images(stage, indices), data.images[indices])


@pytest.mark.slow
def test_two_processes_write_what_one_writes(
    train: Callable[..., Path], run_script: Callable[..., Any], tmp_path: Path
) -> None:
    one = train("data.num_samples=211", *QUICK)
    first = {stage: (one / "predictions" / f"{stage}.csv").read_text() for stage in ("val", "test")}
    best = [f"ckpt_path={one}/checkpoints/best.ckpt", "train=false"]
    settings = [*TINY, "data.num_samples=211", *QUICK, *best, "trainer.devices=2", f"hydra.run.dir={tmp_path}/two"]
    done = run_script("train.py", *settings)
    assert done.returncode == 0, done.stderr
    names = [f"class {index}" for index in range(4)]
    alone, together = (read_table(place, "test", names) for place in (one, tmp_path / "two"))
    assert alone is not None and together is not None
    assert list(alone.samples) == list(together.samples)
    assert np.array_equal(alone.predicted, together.predicted)
    np.testing.assert_allclose(alone.confidence, together.confidence, rtol=1e-5)
    assert first["test"] == (one / "predictions" / "test.csv").read_text()


def test_the_best_epoch_of_before_a_resume_is_written_again(train: Callable[..., Path], tmp_path: Path) -> None:
    run_dir = train(*QUICK)
    before = table_of(run_dir, "val")
    # A rate of next to nothing: no later epoch is better, and the first one stays the best.
    train(
        *QUICK,
        f"ckpt_path={run_dir}/checkpoints/last.ckpt",
        "trainer.max_epochs=4",
        "model.optimizer.lr=1e-30",
        f"paths.run_dir={tmp_path / 'on'}",
    )
    after = table_of(tmp_path / "on", "val")
    assert np.array_equal(after.counts(), counts_of(tmp_path / "on", "val"))
    assert np.array_equal(after.predicted, before.predicted)
    history = MatrixHistory.from_bytes((tmp_path / "on" / "confusion_matrix" / "val_epochs.npz").read_bytes())
    assert list(history.matrices) == [1, 2, 3, 4]


def test_another_format_by_one_setting(train: Callable[..., Path]) -> None:
    pytest.importorskip("pyarrow")
    run_dir = train("callbacks.predictions.format=parquet", *QUICK)
    assert {path.suffix for path in (run_dir / "predictions").glob("test.*")} == {".parquet"}
    assert np.array_equal(table_of(run_dir, "test").counts(), counts_of(run_dir, "test"))


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(UserError, match="csv or parquet but found xlsx"):
        Predictions("unused", format="xlsx")  # type: ignore[arg-type]
