import json
from collections.abc import Callable
from pathlib import Path

import pytest
from pytorch_lightning.loggers import WandbLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from image_classifier.engine.confusion.matrix import from_csv, most_confused

# What these tests do not look at.
QUICK = (
    "callbacks.report=null",
    "callbacks.misclassified=null",
    "callbacks.calibration=null",
    "callbacks.sample_images=null",
)


def test_tensorboard_shows_the_pairs_of_every_epoch_and_of_the_test(train: Callable[..., Path]) -> None:
    run_dir = train("logger=tensorboard", *QUICK, "model.scheduler=null", "model.optimizer.lr=0.001")
    events = EventAccumulator(str(run_dir / "tensorboard"), size_guidance={"tensors": 0}).Reload()
    assert len(events.Tensors("most_confused/val/text_summary")) == 2  # one for each epoch
    (logged,) = events.Tensors("most_confused/test/text_summary")
    text = logged.tensor_proto.string_val[0].decode()
    counts, names = from_csv((run_dir / "confusion_matrix" / "test.csv").read_text())
    pairs = most_confused(counts, names, 5)
    assert len(pairs) > 1
    assert text.splitlines() == [
        "| true class | taken for | count | share of the true class |",
        "| --- | ---: | ---: | ---: |",
        *(f"| {pair.true} | {pair.predicted} | {pair.samples} | {pair.share:.1%} |" for pair in pairs),
    ]


def test_wandb_gets_a_table(train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    logged = []
    monkeypatch.setattr(WandbLogger, "log_table", lambda self, key, **table: logged.append((key, table)))
    run_dir = train("logger=wandb", "logger.wandb.mode=offline", *QUICK, "model.optimizer.lr=0.001")
    assert [key for key, _ in logged] == ["most_confused/val", "most_confused/val", "most_confused/test"]
    counts, names = from_csv((run_dir / "confusion_matrix" / "test.csv").read_text())
    pair = most_confused(counts, names, 1)[0]
    table = logged[-1][1]
    assert table["columns"] == ["true class", "taken for", "count", "share of the true class"]
    assert table["data"][0] == [pair.true, pair.predicted, pair.samples, f"{pair.share:.1%}"]


@pytest.mark.parametrize("overrides", [("confusion_matrix=none",), ("logger=csv",)])
def test_runs_without_a_place_for_tables_go_on(train: Callable[..., Path], overrides: tuple[str, ...]) -> None:
    run_dir = train(*overrides, *QUICK, "model.scheduler=null", "trainer.max_epochs=1")
    assert json.loads((run_dir / "metrics.json").read_text())["test/acc"] > 0
