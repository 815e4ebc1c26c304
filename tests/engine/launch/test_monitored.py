"""A monitored metric that nobody logs is told before the training; one that may be logged passes."""

from collections.abc import Callable
from pathlib import Path

import pytest

from image_classifier.engine.errors import UserError
from image_classifier.engine.launch import monitored

TOP3 = "+metrics.top3={_target_: torchmetrics.classification.MulticlassAccuracy, top_k: 3, average: micro}"
OWN = "+callbacks.mine={_target_: my_package.LogsScore}"
SETTINGS = ("monitor.metric", "callbacks.early_stopping.monitor", "callbacks.model_checkpoint.monitor")


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", ["val/f1", "val/top5", "val/accuracy_of_all", "val/"])
def test_a_name_that_nobody_logs(compose_config: Callable, setting: str, name: str) -> None:
    found = "model_checkpoint|early_stopping|monitor.metric"  # the default of one is another's
    with pytest.raises(UserError, match=rf"expected .*({found}).* such as val/acc, .*val/macro_f1.*found {name}$"):
        compose_config(f"{setting}={name}", "monitor.mode=max", TOP3)


@pytest.mark.parametrize("name", ["val/f1", "test/f1"])
def test_an_objective_that_nobody_logs(compose_config: Callable, name: str) -> None:
    with pytest.raises(UserError, match=f"expected objectives .* found {name}"):
        compose_config(f"objectives={{val/acc: max, {name}: max}}")


@pytest.mark.parametrize(
    "overrides",
    [
        *([f"monitor.metric={name}"] for name in ("val/acc", "val/loss", "val/macro_f1", "val/balanced_acc")),
        ["monitor.metric=val/top3", TOP3],
        ["monitor.metric=val/f1", OWN],
        ["monitor.metric=val/f1", "model._target_=my_package.Module"],
        ["monitor.metric=val/f1", "ckpt_path=last.ckpt"],
        ["callbacks.early_stopping.monitor=train/loss", "callbacks.early_stopping.mode=min"],
        ["objectives={test/acc: max, parameters: min, fit_seconds: min}"],
    ],
    ids=lambda overrides: " ".join(overrides)[:60],
)
def test_a_name_that_may_be_logged_passes(compose_config: Callable, overrides: list[str]) -> None:
    compose_config(*overrides)


@pytest.mark.parametrize(
    "line", ['self.log("val/f1", value)', 'self.log(f"{stage}/f1", value)', 'MetricCollection({"f1": F1Score()})']
)
def test_code_in_front_that_was_edited_to_log_it(
    compose_config: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, line: str
) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "classifier.py").write_text(line)
    monkeypatch.setattr(monitored, "ROOT", tmp_path)
    compose_config("monitor.metric=val/f1")


@pytest.mark.parametrize("setting", SETTINGS[:2])
def test_what_was_not_known_before_is_told_after_the_first_validation(
    train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    monkeypatch.setattr(monitored, "front_files", lambda name: iter([monitored.ROOT / "pipeline.py"]))
    with pytest.raises(UserError, match="to be logged, one of val/acc, .*val/macro_f1.* but found val/f1"):
        train(f"{setting}=val/f1", "trainer.max_epochs=2", "logger=none", "confusion_matrix=none")


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("stages", ["[test]", "[val]", "[val,test]"])
def test_a_callback_logs_in_its_stages_alone(compose_config: Callable, setting: str, stages: str) -> None:
    """Known before the training: the calibration of validations is asked for, or it is not."""
    typed = (f"{setting}=val/ece", f"callbacks.calibration.stages={stages}")
    if "val" in stages:
        compose_config(*typed)
        return
    cure = r"type 'callbacks\.calibration\.stages=\[val,test\]'$"
    with pytest.raises(UserError, match=f"^expected .* to be a metric that is logged, .* but found val/ece; {cure}"):
        compose_config(*typed)


@pytest.mark.parametrize(
    ("overrides", "passes"),
    [
        (["callbacks.calibration=null"], False),
        (["callbacks.calibration=null", OWN], True),
        (["~callbacks.calibration.stages"], True),
    ],
)
def test_a_callback_that_is_not_there_logs_nothing(
    compose_config: Callable, overrides: list[str], passes: bool
) -> None:
    typed = ("monitor.metric=val/ece", *overrides)
    if passes:
        compose_config(*typed)
        return
    with pytest.raises(UserError, match=r"such as val/acc, .* but found val/ece$"):
        compose_config(*typed)


def test_a_callback_that_others_are_based_on(
    compose_config: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "callbacks").mkdir()
    (tmp_path / "callbacks" / "calibration.py").write_text('self.log("ece", 1)')
    monkeypatch.setattr(monitored, "ROOT", tmp_path)
    with pytest.raises(UserError, match="found val/ece; type"):
        compose_config("monitor.metric=val/ece")
    (tmp_path / "callbacks" / "mine.py").write_text("from image_classifier.callbacks.calibration import Calibration")
    compose_config("monitor.metric=val/ece")
