import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from sweeping import run

from image_classifier import pipeline
from image_classifier.callbacks.report import Report
from image_classifier.engine.runs.page import write_report
from image_classifier.engine.runs.provenance import git_commit
from image_classifier.models.classifier import Classifier
from tiny import TINY_WITH_DRAWINGS


@pytest.fixture
def tiny_overrides() -> tuple[str, ...]:
    return TINY_WITH_DRAWINGS


QUICK = ("logger=none", "callbacks.learning_rate_monitor=null", "callbacks.sample_images=null")


def pictures(run_dir: Path) -> set[str]:
    return {path.stem for path in (run_dir / "report").glob("*.png")}


def page_data(run_dir: Path) -> dict:
    html = (run_dir / "report" / "report.html").read_text()
    return json.loads(html.split('<script type="application/json" id="data">')[1].split("</script>")[0])


def saved_curves(run_dir: Path, checkpoint: str) -> dict:
    return torch.load(run_dir / "checkpoints" / checkpoint, weights_only=True)["callbacks"]["Report"]


def test_training_and_test_are_shown_with_where_they_come_from(train: Callable[..., Path]) -> None:
    run_dir = train("model.optimizer.lr=0.001", *QUICK)
    assert pictures(run_dir) == {"learning_curves", "confusion_matrix_val", "confusion_matrix_test"}
    html = (run_dir / "report" / "report.html").read_text()
    metrics = json.loads((run_dir / "metrics.json").read_text())
    assert 0 < metrics["test/ece"] < 1
    for shown in (f"{metrics['test/acc']:.4f}", "num_samples: 200", git_commit(), "class 3"):
        assert shown in html


def test_training_alone_and_no_form_of_the_matrix(train: Callable[..., Path]) -> None:
    run_dir = train("confusion_matrix=none", "test=false", *QUICK)
    assert pictures(run_dir) == {"learning_curves", "confusion_matrix_val"}
    assert not (run_dir / "images").exists()


def test_a_job_of_a_sweep_draws_its_png_files_when_asked(tmp_path: Path) -> None:
    job = ("-m", *TINY_WITH_DRAWINGS, *QUICK, "trainer.max_epochs=1")
    assert run(*job, "seed=1,2", f"hydra.sweep.dir={tmp_path}").status == 0
    assert not pictures(tmp_path / "0") and page_data(tmp_path / "0")["stages"]
    written = (tmp_path / "0" / "report" / "report.html").read_bytes()
    write_report(tmp_path / "0")  # make report RUN=...
    assert (tmp_path / "0" / "report" / "report.html").read_bytes() == written
    assert pictures(tmp_path / "0") == {"learning_curves", "confusion_matrix_val", "confusion_matrix_test"}
    assert run(*job, "seed=3", "callbacks.report.png=true", f"hydra.sweep.dir={tmp_path}/asked").status == 0
    assert len(pictures(tmp_path / "asked" / "0")) == 3


def test_a_test_of_an_earlier_run_in_the_same_directory_is_left_out(train: Callable[..., Path]) -> None:
    directory = train(*QUICK) / "confusion_matrix"
    assert (directory / "test.csv").exists()
    run_dir = train("test=false", *QUICK)
    assert [stage["key"] for stage in page_data(run_dir)["stages"]] == ["val"]
    assert pictures(run_dir) == {"learning_curves", "confusion_matrix_val"}


def test_evaluation_writes_its_own(train: Callable[..., Path], compose_config: Callable, tmp_path: Path) -> None:
    run_dir = train("callbacks.report=null", "callbacks.misclassified=null", *QUICK)
    assert not (run_dir / "report").exists()
    cfg = compose_config(
        f"ckpt_path={run_dir}/checkpoints/best.ckpt",
        f"paths.run_dir={tmp_path}/eval",
        "callbacks.progress_bar=null",
        config_name="eval",
    )
    pipeline.evaluate(cfg)
    assert pictures(tmp_path / "eval") == {"confusion_matrix_test"}
    (stage,) = page_data(tmp_path / "eval")["stages"]
    assert stage["key"] == "test"
    assert stage["samples"]["atlas"]["source"].startswith("data:image/webp;base64,")
    assert "ckpt_path:" in (tmp_path / "eval" / "report" / "report.html").read_text()


def test_curves_go_on_after_a_resume(train: Callable[..., Path]) -> None:
    settings = ("model.scheduler=null", "callbacks.misclassified=null", "test=false", *QUICK)
    run_dir = train(*settings)
    before = saved_curves(run_dir, "last.ckpt")
    assert [row["epoch"] for row in before["epochs"]] == [1, 2]
    train(*settings, f"ckpt_path={run_dir}/checkpoints/last.ckpt", "trainer.max_epochs=4")
    after = saved_curves(run_dir, "last.ckpt")
    assert [row["epoch"] for row in after["epochs"]] == [1, 2, 3, 4]
    assert after["epochs"][:2] == before["epochs"]
    assert all(set(row) == {"epoch", "train/loss", "train/acc", "val/loss", "val/acc"} for row in after["epochs"])
    metrics = json.loads((run_dir / "metrics.json").read_text())
    assert after["epochs"][3]["train/loss"] == pytest.approx(metrics["train/loss"], rel=1e-6)
    times = [time for time, _ in after["learning_rates"]]
    assert times == sorted(times)
    assert times[-1] < 4


def test_the_page_knows_the_best_of_equal_epochs(train: Callable[..., Path]) -> None:
    run_dir = train("model.optimizer.lr=1e-30", "test=false", "callbacks.misclassified=null", *QUICK)
    data = page_data(run_dir)
    first, second = data["epochs"]
    assert (first["cells"], first["counts"]) == (second["cells"], second["counts"])
    best = torch.load(run_dir / "checkpoints" / "best.ckpt", weights_only=True)
    assert data["bestEpoch"] == best["epoch"] + 1 == 1


def test_testing_the_best_checkpoint_forgets_no_later_epoch(compose_config: Callable) -> None:
    callback = Report("unused")
    callback.epochs = [{"epoch": 1.0}, {"epoch": 2.0}]
    callback.load_state_dict({"epochs": [{"epoch": 1.0}], "learning_rates": []})
    assert len(callback.epochs) == 2


def test_an_interrupted_training_leaves_a_report(
    train: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = Classifier.on_train_epoch_start

    def interrupt(self: Classifier) -> None:
        if self.trainer.current_epoch == 1:
            raise KeyboardInterrupt  # what Ctrl-C raises
        start(self)

    monkeypatch.setattr(Classifier, "on_train_epoch_start", interrupt)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        train(*QUICK)
    assert pictures(tmp_path / "run") == {"learning_curves", "confusion_matrix_val"}
