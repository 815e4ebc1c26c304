"""How often the progress bar is brought up to date, and that it ends where the epoch ends."""

from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import RichProgressBar

from image_classifier.callbacks import progress_bar
from image_classifier.callbacks.progress_bar import ProgressBar
from image_classifier.data.synthetic import Synthetic
from image_classifier.models.classifier import Classifier
from image_classifier.models.mlp import MLP

EPOCHS, STEPS = 2, 10


@pytest.fixture
def updates(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The batches after which Lightning's bar is brought up to date, when a step takes a quarter of a second."""
    numbers: list[int] = []
    clock = iter(range(1, 1_000))
    update = RichProgressBar.on_train_batch_end

    def record(bar: RichProgressBar, *arguments: object) -> None:
        numbers.append(arguments[-1])  # type: ignore[arg-type]
        update(bar, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(progress_bar, "monotonic", lambda: next(clock) / 4)
    monkeypatch.setattr(RichProgressBar, "on_train_batch_end", record)
    return numbers


def fit(bar: ProgressBar) -> None:
    trainer = pl.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        logger=False,
        callbacks=[bar],
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    data = Synthetic(num_classes=3, num_samples=250, image_size=8, batch_size=16, val_size=0.2)
    trainer.fit(Classifier(MLP((1, 8, 8), 3, [4]), partial(torch.optim.SGD, lr=0.1)), data)


@pytest.mark.parametrize(
    ("rate", "expected"),
    [(1, [0, 4, 8, 9, 3, 7, 9]), (2, [0, 2, 4, 6, 8, 9, 1, 3, 5, 7, 9]), (4, [*range(STEPS), *range(STEPS)])],
)
def test_it_is_updated_so_many_times_a_second_and_at_the_end_of_each_epoch(
    rate: int, expected: list[int], updates: list[int]
) -> None:
    bar = ProgressBar(refresh_rate=rate, leave=True)
    fit(bar)
    assert updates == expected
    assert bar.progress is not None
    epoch = bar.progress.tasks[0]  # the last one: each epoch has a bar of its own
    assert (epoch.description, epoch.completed, epoch.total) == (f"Epoch {EPOCHS - 1}/{EPOCHS - 1} ", STEPS, STEPS)


def test_a_rate_of_0_hides_it(updates: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    fit(ProgressBar(refresh_rate=0))
    assert updates == []
    assert "Epoch" not in capsys.readouterr().out
