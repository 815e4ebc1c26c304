"""A cross-validation as a sweep: mean, deviation and one matrix over all folds."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sweeping import Outcome, read, sweep

from image_classifier.engine.sweeps.folds import report_folds
from image_classifier.engine.sweeps.jobs import jobs_of

FOLDS = ("data.folds=3", "data.fold=range(3)", "trainer.max_epochs=1")


@pytest.fixture(scope="module")
def folds(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    directory = tmp_path_factory.mktemp("sweeps") / "folds"
    return directory, sweep(directory, *FOLDS, "model.optimizer.lr=0.001,0.03")


def rows_of(directory: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((directory / "folds.csv").read_text().splitlines()))


def counts_in(path: Path) -> np.ndarray:
    return np.array([[int(cell) for cell in row.split(",")[1:]] for row in path.read_text().splitlines()[1:]])


def test_mean_and_deviation_are_those_of_the_jobs(folds: tuple[Path, Outcome]) -> None:
    directory, outcome = folds
    assert outcome.status == 0
    rows = rows_of(directory)
    assert {row["settings"] for row in rows} == {"model.optimizer.lr=0.001", "model.optimizer.lr=0.03"}
    for rate in ("0.001", "0.03"):
        jobs = [job for job in jobs_of(directory) if job.settings["model.optimizer.lr"] == rate]
        assert sorted(job.settings["data.fold"] for job in jobs) == ["0", "1", "2"]
        for figure in ("val/acc", "val/loss", "test/acc", "test/loss"):
            values = [read(job.directory / "metrics.json")[figure] for job in jobs]
            row = next(row for row in rows if row["figure"] == figure and row["settings"].endswith(f"={rate}"))
            assert float(row["mean"]) == pytest.approx(np.mean(values), rel=1e-6)
            assert float(row["deviation"]) == pytest.approx(np.std(values, ddof=1), rel=1e-5, abs=1e-12)
            assert row["folds"] == "3" and [float(row[f"fold {job.settings['data.fold']}"]) for job in jobs] == values
    assert "Over the folds" in outcome.output and "val/acc" in outcome.output
    assert (directory / "folds.md").read_text().startswith("| settings | figure | mean | deviation | folds |")


def test_one_matrix_holds_each_training_image_once(folds: tuple[Path, Outcome]) -> None:
    directory, outcome = folds
    for number, rate in enumerate(("0.001", "0.03")):
        jobs = [job for job in jobs_of(directory) if job.settings["model.optimizer.lr"] == rate]
        counts = counts_in(directory / "folds" / f"confusion_matrix_{number}.csv")
        expected = sum(counts_in(job.directory / "confusion_matrix" / "val.csv") for job in jobs)
        assert np.array_equal(counts, expected) and counts.sum() == 160  # a fifth of 200 is the test
        assert Image.open(directory / "folds" / f"confusion_matrix_{number}.png").width > 100
        accuracy = counts.trace() / counts.sum()
        assert f"model.optimizer.lr={rate}: All 3 folds, 160 images, accuracy {accuracy:.2%}" in outcome.output


def test_a_fold_that_is_missing_is_told(
    folds: tuple[Path, Outcome], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = shutil.copytree(folds[0], tmp_path / "copy")
    shutil.rmtree(directory / "folds")
    jobs = list(jobs_of(directory))
    gone = next(job for job in jobs if job.settings["data.fold"] == "1")
    (gone.directory / "metrics.json").unlink()
    report_folds(directory, list(jobs_of(directory)))
    told = capsys.readouterr()
    assert "Folds without a finished job: 1; no matrix over all" in told.err
    assert "(2 of 3 folds)" in (directory / "folds.md").read_text()
    assert len(list((directory / "folds").glob("*.csv"))) == 1


def test_one_cross_validation_has_one_matrix(tmp_path: Path) -> None:
    outcome = sweep(tmp_path / "sweep", *FOLDS)
    assert outcome.status == 0 and counts_in(tmp_path / "sweep" / "folds" / "confusion_matrix.csv").sum() == 160
    assert {row["settings"] for row in rows_of(tmp_path / "sweep")} == {"all folds"}


def test_other_sweeps_have_no_folds(tmp_path: Path) -> None:
    report_folds(tmp_path, [])
    assert list(tmp_path.iterdir()) == []
