"""A run that was interrupted, anywhere, and resumed ends like one that was not: weights, metrics, matrices, files."""

import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import timm
from sweeping import run

from image_classifier.engine.launch import objects
from picture_sources import write_noise
from run_directories import differences
from tiny import TINY

SETTINGS = (
    *(text for text in TINY if not text.startswith(("model", "data"))),
    *("trainer.max_epochs=3", "data.batch_size=12", "trainer.precision=32-true", "callbacks.early_stopping=null"),
    *("logger=none", "confusion_matrix=scalar"),
)
SYNTHETIC = tuple(text for text in TINY if text.startswith("data"))
EMA = "+callbacks.averaging={_target_: pytorch_lightning.callbacks.EMAWeightAveraging, decay: 0.9}"
MLP = (*SYNTHETIC, "model=mlp", "model.net.hidden_sizes=[16]")
DROPOUT = (*SYNTHETIC, "model=wide_resnet", "model.net.depth=10", "model.net.width=1", "model.net.dropout=0.5")
FILES = ("data=image_folder", "data.in_memory=false", *DROPOUT[len(SYNTHETIC) :])
PATHS = (*SYNTHETIC, "model=timm", "model.net.name=resnet10t")

CASES = {
    "mlp": MLP,
    "dropout": DROPOUT,
    "stochastic depth": PATHS,
    "averaging": (*DROPOUT, EMA),
    "accumulated gradients": (*MLP, "trainer.accumulate_grad_batches=3"),
    "two validations an epoch": (*DROPOUT, "+trainer.val_check_interval=0.5"),
    "mixed precision": (*DROPOUT, "trainer.precision=bf16-mixed"),
    "files": (*FILES, "data.num_workers=0"),
    "files, two workers": (*FILES, "data.num_workers=2"),
}


@pytest.fixture(scope="module", autouse=True)
def stochastic_depth() -> Iterator[None]:
    """Networks of timm that leave out blocks at random, for which there is no setting."""
    with patch.object(timm, "create_model", partial(timm.create_model, drop_path_rate=0.5)):
        yield


@pytest.fixture(autouse=True)
def trust_the_callback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "EXECUTION_WHITELIST", (*objects.EXECUTION_WHITELIST, "moments.*"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_noise(tmp_path_factory.mktemp("pictures"), 8, 8)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Callable[[str], Path]:
    """The directory of a run without interruption, once for each case."""
    done: dict[str, Path] = {}

    def make(case: str) -> Path:
        if case not in done:
            done[case] = tmp_path_factory.mktemp("straight") / "run"
            assert train(done[case], case, pictures).status == 0
        return done[case]

    return make


def train(directory: Path, case: str, pictures: Path, *arguments: str) -> Any:
    folder = [f"data.root={pictures}", "data.image_size=8"] if case.startswith("files") else []
    return run(*SETTINGS, *CASES[case], *folder, *arguments, f"hydra.run.dir={directory}")


def interruption(moment: str, step: int, number: int = signal.SIGTERM) -> str:
    arguments = f"moment: {moment}, step: {step}, number: {int(number)}"
    return f"+callbacks.signal={{_target_: moments.SignalAt, {arguments}}}"


@pytest.mark.sampled(every=11)
@pytest.mark.parametrize(
    ("moment", "step"),
    [
        ("on_train_batch_start", 4),
        ("on_train_batch_start", 13),
        ("on_validation_batch_end", 5),
        ("on_train_epoch_end", 10),
        ("on_test_batch_end", 9),
    ],
)
@pytest.mark.parametrize("case", CASES)
def test_interrupted_and_resumed_is_as_if_it_had_gone_on(
    tmp_path: Path, straight: Callable[[str], Path], pictures: Path, case: str, moment: str, step: int
) -> None:
    if case == "accumulated gradients":
        step //= 3
    stopped = train(tmp_path / "run", case, pictures, interruption(moment, step))
    assert stopped.status == 143
    assert not (tmp_path / "run" / "metrics.json").exists()
    resumed = run(f"resume={tmp_path}/run", "~callbacks.signal")
    assert resumed.status == 0, resumed.errors
    assert differences(straight(case), tmp_path / "run") == []
