"""A run directory written by hand, so that a test knows every number in it."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from image_classifier.engine.confusion.history import MatrixHistory
from image_classifier.engine.confusion.matrix import to_csv
from image_classifier.engine.runs.page import save_course
from image_classifier.engine.runs.sample_table import SampleTable, write_table
from image_classifier.engine.runs.thumbnails import choose_samples, make_atlas, save_atlas


def make_table(
    names: Sequence[str], samples: int, seed: int = 0, paths: Sequence[str] | None = None, sure: float = 2.0
) -> SampleTable:
    """A classifier that is often right; equal confidences and all."""
    generator = np.random.default_rng(seed)
    number = len(names)
    true = generator.integers(0, number, samples)
    logits = generator.normal(size=(samples, number)).astype(np.float32)
    logits[np.arange(samples), true] += sure
    logits = np.round(logits, 1)  # some confidences are equal
    rows = np.arange(samples)
    logarithms = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    predicted = logits.argmax(1)
    logits[rows, predicted] = -np.inf
    return SampleTable(
        samples=list(paths) if paths is not None else [str(3 * index) for index in range(samples)],
        true=true,
        predicted=predicted,
        confidence=np.exp(logarithms[rows, predicted]).astype(np.float32),
        loss=-logarithms[rows, true].astype(np.float32),
        second=logits.argmax(1),
        class_names=tuple(names),
    )


def pictures_of(rows: np.ndarray, size: int = 12) -> np.ndarray:
    """(B, 1, size, size) uint8, a different one for each row of a table."""
    return np.stack([np.random.default_rng(int(row)).integers(0, 256, (1, size, size), dtype=np.uint8) for row in rows])


def make_run(
    run_dir: Path,
    names: Sequence[str],
    *,
    test: SampleTable | None = None,
    val: SampleTable | None = None,
    epochs: Sequence[SampleTable] = (),
    pictures: int = 2000,
    config: dict[str, object] | None = None,
) -> Path:
    """Write what a finished run leaves behind; the course of the training ends at the best epoch, `val`."""
    (run_dir / "confusion_matrix").mkdir(parents=True)
    metrics: dict[str, float] = {"epochs": len(epochs)}
    for stage, table in (("val", val), ("test", test)):
        if table is None:
            continue
        text = to_csv(torch.from_numpy(table.counts()), list(names))
        (run_dir / "confusion_matrix" / f"{stage}.csv").write_text(text)
        write_table(run_dir, stage, table)
        save_atlas(run_dir, stage, make_atlas(choose_samples(table, pictures), pictures_of))
        metrics |= {
            f"{stage}/acc": float((table.true == table.predicted).mean()),
            f"{stage}/loss": float(table.loss.mean()),
        }
    history = MatrixHistory(len(names))
    rows: list[dict[str, float]] = []
    for number, table in enumerate(epochs, 1):
        history.add(number, table.true, table.predicted)
        rows.append({"epoch": number, "val/acc": float((table.true == table.predicted).mean()), "val/loss": 1 / number})
    if epochs:
        (run_dir / "confusion_matrix" / "val_epochs.npz").write_bytes(history.to_bytes())
    (run_dir / "config.yaml").write_text(json.dumps({"paths": {"run_dir": str(run_dir)}, **(config or {})}))
    (run_dir / "metrics.json").write_text(json.dumps(metrics))
    facts = {"command": "python train.py data.root='<a>'"}
    save_course(run_dir, metrics=metrics, epochs=rows, learning_rates=[[0, 0.1], [len(epochs), 0.01]], facts=facts)
    return run_dir
