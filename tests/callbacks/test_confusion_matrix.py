"""The callback: when it logs, what it counts, what it refuses."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn import metrics

from image_classifier import pipeline
from image_classifier.data.synthetic import Synthetic
from image_classifier.engine.confusion.matrix import from_csv
from image_classifier.engine.errors import UserError


def pictures(run_dir: Path) -> list[str]:
    return sorted(path.name for path in (run_dir / "images" / "confusion_matrix").glob("*.png"))


def csv_scalars(run_dir: Path) -> dict[str, float]:
    """The last value of each key of the CSV logger."""
    with (run_dir / "csv" / "metrics.csv").open(newline="") as file:
        return {key: float(value) for row in csv.DictReader(file) for key, value in row.items() if value}


def test_matrices_are_logged_every_n_epochs(train: Callable[..., Path]) -> None:
    matrix = ("confusion_matrix=image", "confusion_matrix.every_n_epochs=2")
    run_dir = train(*matrix, "logger=none", "trainer.max_epochs=5")
    # Two steps an epoch would be 2, 4, ...; here an epoch is one step, so steps are epochs.
    assert pictures(run_dir) == ["test_step_5.png", "val_step_2.png", "val_step_4.png"]


@pytest.mark.parametrize("stage", ["val", "test"])
def test_only_the_chosen_stages_are_logged(train: Callable[..., Path], stage: str) -> None:
    matrix = ("confusion_matrix=image", f"confusion_matrix.stages=[{stage}]")
    run_dir = train(*matrix, "logger=none", "trainer.max_epochs=1")
    assert pictures(run_dir) == [f"{stage}_step_1.png"]
    assert [path.name for path in (run_dir / "confusion_matrix").glob("*.csv")] == [f"{stage}.csv"]


def test_sanity_check_leaves_no_trace(train: Callable[..., Path]) -> None:
    overrides = ("logger=csv", "confusion_matrix=all", "trainer.max_epochs=1", "trainer.num_sanity_val_steps=2")
    run_dir = train(*overrides)
    counts, _ = from_csv((run_dir / "confusion_matrix" / "val.csv").read_text())
    assert counts.sum() == 40  # each validation image once
    assert pictures(run_dir) == ["test_step_1.png", "val_step_1.png"]
    with (run_dir / "csv" / "metrics.csv").open(newline="") as file:
        assert all(int(row["step"]) > 0 for row in csv.DictReader(file) if row.get("per_class/val/f1/class_0"))


def test_no_form_logs_nothing_but_saves_the_counts(train: Callable[..., Path]) -> None:
    run_dir = train("logger=csv", "confusion_matrix=none", "trainer.max_epochs=1")
    assert not pictures(run_dir)
    assert not any(key.startswith("confusion_matrix") for key in csv_scalars(run_dir))
    assert {path.name for path in (run_dir / "confusion_matrix").glob("*.csv")} == {"val.csv", "test.csv"}


def test_forms_can_be_listed(train: Callable[..., Path]) -> None:
    run_dir = train("logger=csv", "confusion_matrix.forms=[image,scalar]", "trainer.max_epochs=1")
    assert pictures(run_dir) and "confusion_matrix/val/class_0/class_1" in csv_scalars(run_dir)
    assert not (run_dir / "csv" / "confusion_matrix_table").exists()


def test_one_normalisation_keeps_the_plain_keys(train: Callable[..., Path]) -> None:
    run_dir = train("logger=csv", "confusion_matrix=scalar", "confusion_matrix.normalize=true", "trainer.max_epochs=1")
    scalars = csv_scalars(run_dir)
    counts, _ = from_csv((run_dir / "confusion_matrix" / "test.csv").read_text())
    shares = counts / counts.sum(1, keepdim=True).clamp(min=1)
    assert scalars["confusion_matrix/test/class_1/class_2"] == pytest.approx(float(shares[1, 2]))
    assert not any("normalized" in key for key in scalars)


@pytest.mark.parametrize("value", ["[]", "rows", "[none,rows]", "3"])
def test_unknown_normalisations_are_refused(compose_config: Callable, value: str) -> None:
    with pytest.raises(UserError, match=r"confusion_matrix\.normalize to be one of none, true, pred, all"):
        compose_config(f"confusion_matrix.normalize={value}")


def test_unknown_forms_are_refused(compose_config: Callable) -> None:
    with pytest.raises(UserError, match=r"confusion_matrix\.forms to be a list of any of image, scalar, table, chart"):
        compose_config("confusion_matrix.forms=[picture]")


def test_two_classes_give_tp_tn_fp_fn(train: Callable[..., Path]) -> None:
    run_dir = train("logger=csv", "confusion_matrix=scalar", "data.num_classes=2", "trainer.max_epochs=1")
    (tn, fp), (fn, tp) = from_csv((run_dir / "confusion_matrix" / "test.csv").read_text())[0].tolist()
    scalars = csv_scalars(run_dir)
    written = {name: scalars[f"confusion_matrix/test/{name}"] for name in ("tp", "tn", "fp", "fn")}
    assert written == {"tp": tp, "tn": tn, "fp": fp, "fn": fn}
    assert len([key for key in scalars if key.startswith("confusion_matrix/test/")]) == 4


def test_large_matrices_log_diagonal_and_top_confusions_and_say_so_once(
    train: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = ("logger=csv", "confusion_matrix=all", "data.num_classes=20")
    run_dir = train(*overrides, "confusion_matrix.max_cells=399", "confusion_matrix.top_confusions=3")
    assert capsys.readouterr().out.count("confusion_matrix.max_cells=399") == 1
    counts, _ = from_csv((run_dir / "confusion_matrix" / "test.csv").read_text())
    cells = {key: value for key, value in csv_scalars(run_dir).items() if key.startswith("confusion_matrix/test/")}
    errors = counts.clone().fill_diagonal_(0)
    assert len(cells) == 20 + min(3, int((errors > 0).sum()))
    assert cells["confusion_matrix/test/class_3/class_3"] == counts[3, 3]
    assert max(value for key, value in cells.items() if len(set(key.split("/")[2:])) == 2) == errors.max()
    table = (run_dir / "csv" / "confusion_matrix_table" / "test_step_2.csv").read_text().splitlines()
    assert table[0] == "true,predicted,value" and len(table) == 1 + len(cells)


def test_ignored_labels_count_nowhere(train: Callable[..., Path]) -> None:
    whole, _ = from_csv((train("logger=none", "trainer.max_epochs=1") / "confusion_matrix" / "test.csv").read_text())
    run_dir = train("logger=none", "trainer.max_epochs=1", "model.ignore_index=2")
    counts, _ = from_csv((run_dir / "confusion_matrix" / "test.csv").read_text())
    assert whole[2].sum() > 0
    assert counts.sum(1).tolist() == [*whole.sum(1)[:2].tolist(), 0, *whole.sum(1)[3:].tolist()]
    figures = json.loads((run_dir / "metrics.json").read_text())
    assert figures["test/acc"] == pytest.approx(int(counts.trace()) / int(counts.sum()))


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_figures_of_a_long_tail_agree_with_scikit_learn(train: Callable[..., Path]) -> None:
    run_dir = train("logger=none", "data.imbalance=50", "data.num_samples=600", "data.num_classes=5")
    counts, _ = from_csv((run_dir / "confusion_matrix" / "test.csv").read_text())
    assert counts.sum(1).max() > 10 * counts.sum(1).min()
    cells = counts.nonzero().repeat_interleave(counts[counts > 0], 0)
    true, predicted = cells[:, 0].tolist(), cells[:, 1].tolist()
    written = json.loads((run_dir / "metrics.json").read_text())
    expected = {
        "test/acc": metrics.accuracy_score(true, predicted),
        "test/balanced_acc": metrics.balanced_accuracy_score(true, predicted),
        "test/macro_f1": metrics.f1_score(true, predicted, average="macro"),
        "test/weighted_f1": metrics.f1_score(true, predicted, average="weighted"),
    }
    assert {key: written[key] for key in expected} == pytest.approx(expected, rel=1e-6)


def named(names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the synthetic classes other names."""
    original = Synthetic.__init__

    def renamed(self: Synthetic, **settings: object) -> None:
        original(self, **settings)  # type: ignore[arg-type]
        self.class_names = names

    monkeypatch.setattr(Synthetic, "__init__", renamed)


def test_duplicate_names_are_refused_in_one_line(train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    named(("cat", "dog", "cat", "cow"), monkeypatch)
    with pytest.raises(UserError, match=r"^Expected class names that differ but got 'cat' .* rename .*$"):
        train("logger=none")


def test_odd_names_keep_their_spelling_outside_of_keys(
    train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("T-shirt/top", 'a "b", c', "ünï", "x" * 200)
    named(names, monkeypatch)
    run_dir = train("logger=csv", "confusion_matrix=all", "trainer.max_epochs=1")
    _, saved = from_csv((run_dir / "confusion_matrix" / "test.csv").read_text())
    assert tuple(saved) == names
    with (run_dir / "csv" / "confusion_matrix_table" / "test_step_1.csv").open(newline="") as file:
        assert tuple(next(csv.reader(file))[1:]) == names
    assert f"confusion_matrix/test/T-shirt_top/{'a__b___c'}" in csv_scalars(run_dir)
    assert np.asarray(Image.open(run_dir / "images" / "confusion_matrix" / "test_step_1.png")).std() > 0


def test_counts_of_the_best_epoch_are_kept_for_validation(train: Callable[..., Path]) -> None:
    run_dir = train("logger=none", "trainer.max_epochs=6", "model.optimizer.lr=1.0")
    best = torch.load(run_dir / "checkpoints" / "best.ckpt", weights_only=True)["metrics"]["val/acc"]
    counts, _ = from_csv((run_dir / "confusion_matrix" / "val.csv").read_text())
    assert int(counts.trace()) / int(counts.sum()) == pytest.approx(best)


def test_evaluation_writes_the_matrix_of_the_training_run(
    train: Callable[..., Path], compose_config: Callable, tmp_path: Path
) -> None:
    run_dir = train("logger=none", "trainer.max_epochs=1")
    overrides = (f"ckpt_path={run_dir}/checkpoints/best.ckpt", f"paths.run_dir={tmp_path}/eval")
    pipeline.evaluate(compose_config(*overrides, config_name="eval"))
    written = [(path / "confusion_matrix" / "test.csv").read_text() for path in (run_dir, tmp_path / "eval")]
    assert written[0] == written[1]
