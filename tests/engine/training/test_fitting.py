"""What torch and Lightning find out about a setting is told in its words, in one line."""

from collections.abc import Callable
from pathlib import Path

import pytest

from image_classifier.engine.errors import UserError

QUIET = ("logger=none", "confusion_matrix=none", "trainer.max_epochs=1")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["+trainer.val_check_interval=1000"], "expected trainer.val_check_interval to fit the training .*1000"),
    ],
)
def test_a_setting_that_only_the_training_refuses(train: Callable[..., Path], settings: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        train(*QUIET, *settings)


@pytest.mark.parametrize("shortcuts", [True, False])
def test_an_optimizer_that_never_calls_its_closure(
    train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, shortcuts: bool
) -> None:
    monkeypatch.setattr("torch.optim.AdamW.step", lambda *_, closure=None: None)
    with pytest.raises(UserError, match="model.optimizer to call the closure"):
        train(*QUIET, f"shortcuts={shortcuts}")


def test_any_other_error_stays_itself(train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise ValueError("something else")

    monkeypatch.setattr("image_classifier.models.classifier.Classifier.training_step", fail)
    with pytest.raises(ValueError, match="something else"):
        train(*QUIET)
