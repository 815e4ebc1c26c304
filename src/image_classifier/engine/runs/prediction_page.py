"""The page of predictions for pictures whose folders tell their classes."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from image_classifier.engine.confusion.matrix import overall_metrics
from image_classifier.engine.images.pictures import read_picture
from image_classifier.engine.images.unlabelled import PictureBatches
from image_classifier.engine.runs.page import PICTURES, save_course, write_report
from image_classifier.engine.runs.predictions import Predictions
from image_classifier.engine.runs.provenance import git_commit, within_project
from image_classifier.engine.runs.sample_table import SampleTable, write_table
from image_classifier.engine.runs.thumbnails import choose_samples, make_atlas, save_atlas

STAGE = "predict"


def write_page(predictions: Predictions, pictures: PictureBatches, run_dir: Path, command: str) -> Path | None:
    """Write `report/report.html` as a test writes its own, once the matrix is written.

    Args:
        predictions: What the network says.
        pictures: Where it was read from; those that go into the page are read again.
        run_dir: Where the page goes, and the table and small pictures that it is made from.
        command: That made the predictions.

    Returns:
        The path of the page; None where no folder tells a class.
    """
    counts = predictions.counts()
    if counts is None:
        return None
    table = sample_table(predictions)
    write_table(run_dir, STAGE, table)
    paths = [pictures.paths[index] for index in pictures.decoded]

    def read(rows: np.ndarray) -> np.ndarray:
        with ThreadPoolExecutor(pictures.threads) as pool:
            images = list(pool.map(lambda row: read_picture(paths[row], pictures.form), rows.tolist()))
        return torch.stack(images).numpy()

    save_atlas(run_dir, STAGE, make_atlas(choose_samples(table, PICTURES), read))
    overall = overall_metrics(counts)
    metrics = {f"{STAGE}/acc": overall.pop("accuracy"), f"{STAGE}/loss": float(np.nanmean(table.loss))}
    save_course(
        run_dir,
        metrics=metrics | {f"{STAGE}/{name}": value for name, value in overall.items()},
        epochs=[],
        learning_rates=[],
        facts={"command": command, "git commit": git_commit(), "run directory": within_project(run_dir)},
    )
    return write_report(run_dir, tables={STAGE: table})


def sample_table(predictions: Predictions) -> SampleTable:
    """The predictions as a row for each picture, -1 where the class is not known."""
    assert predictions.true is not None
    probabilities = predictions.probabilities.double()
    order = probabilities.argsort(dim=1, descending=True, stable=True)
    predicted = order[:, 0]
    second = order[:, 1] if order.shape[1] > 1 else torch.full_like(predicted, -1)
    true = torch.tensor([-1 if label is None else label for label in predictions.true])
    of_true = probabilities.gather(1, true.clamp(min=0)[:, None]).squeeze(1)
    smallest = torch.finfo(torch.float32).tiny  # rounded to zero, its logarithm would be infinite
    loss = -of_true.clamp(min=smallest).log().masked_fill(true < 0, torch.nan)
    return SampleTable(
        samples=list(predictions.files),
        true=true.numpy(),
        predicted=predicted.numpy(),
        confidence=probabilities.gather(1, predicted[:, None]).squeeze(1).float().numpy(),
        loss=loss.float().numpy(),
        second=second.numpy(),
        class_names=tuple(predictions.class_names),
    )
