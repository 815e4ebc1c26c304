"""The running line of a terminal fits on it; everywhere a finished epoch leaves one line, counted from 1."""

import io
import re
from contextlib import redirect_stdout
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from rich.cells import cell_len
from rich.console import Console

from image_classifier.callbacks import progress_bar
from image_classifier.callbacks.progress_bar import Line, ProgressBar
from image_classifier.data.synthetic import Synthetic
from image_classifier.engine.training.metrics import EpochMetrics
from image_classifier.models.classifier import Classifier
from image_classifier.models.mlp import MLP

EPOCHS, STEPS = 2, 10
CONTROLS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\r\n]")  # what moves the cursor or colours


class Terminal(io.StringIO):
    """What is written to a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True

    def parts(self) -> list[str]:
        """What stood on its lines, one after the other."""
        lines = re.split(r"\x1b\[\d*[A-GJK]|[\r\n]", self.getvalue())
        return [text for line in lines if (text := CONTROLS.sub("", line).rstrip())]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "LINES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    return Terminal()


def fit(bar: ProgressBar, *callbacks: pl.Callback, **settings: object) -> pl.Trainer:
    options: dict[str, object] = {
        "max_epochs": EPOCHS,
        "logger": False,
        "enable_checkpointing": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    trainer = pl.Trainer(
        accelerator="cpu", callbacks=[EpochMetrics(), bar, *callbacks], log_every_n_steps=1, **options | settings
    )  # type: ignore[arg-type]
    data = Synthetic(num_classes=3, num_samples=250, image_size=8, batch_size=16, val_size=0.2)
    trainer.fit(Classifier(MLP((1, 8, 8), 3, [4]), partial(torch.optim.SGD, lr=0.1)), data)
    return trainer


LONG = {"train/loss_step": -123456789.123456, "val/loss": float("nan"), "val/acc": 1e-30, "val/a_long_name" * 5: 0.5}


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
@pytest.mark.parametrize("total", [0, 1, 375, 12_345_678, float("inf")])
@pytest.mark.parametrize("metrics", [{}, {"train/loss_step": 0.5}, LONG], ids=["none", "one", "long"])
@pytest.mark.parametrize("seconds", [0.0, 2.5, 1e6])
def test_the_running_line_fits(width: int, total: float, metrics: dict[str, float], seconds: float) -> None:
    for done in {0, min(1, int(min(total, 9))), int(min(total, 9_999_999))}:
        file = Terminal()
        console = Console(width=width, file=file, force_terminal=True, color_system="truecolor")
        console.print(Line("epoch 10/100, val", done, total, seconds, metrics), end="")
        (line,) = file.parts()
        assert cell_len(line) <= width and "\n" not in file.getvalue().rstrip("\n")
        assert line.startswith("epoch 10/100, val ") and f" {done}" in line.replace("/", " ")


def test_a_wide_terminal_says_more() -> None:
    def at(width: int) -> str:
        file = Terminal()
        console = Console(width=width, file=file, force_terminal=True, color_system=None)
        console.print(Line("epoch 1/5", 25, 100, 5.0, {"train/loss_step": 0.25}))
        return file.getvalue().rstrip()

    assert at(100) == f"epoch 1/5 {'━' * 38}  25/100  0:15 left  train/loss_step 0.2500  5 it/s"
    assert at(40) == f"epoch 1/5 {'━' * 10}  25/100  0:15 left"
    assert at(30) == f"epoch 1/5 {'━' * 11}  25/100"


@pytest.mark.parametrize(
    ("rate", "expected"),
    [(1, [1, 5, 9, 10] * 2), (2, [1, 3, 5, 7, 9, 10] * 2), (4, [*range(1, STEPS + 1)] * 2)],
)
def test_it_is_drawn_so_many_times_a_second_and_at_the_end_of_each_epoch(
    rate: int, expected: list[int], terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    drawn: list[int] = []

    class Clock(pl.Callback):
        def on_train_batch_start(self, *arguments: object) -> None:
            nonlocal now
            now += 0.25

    class Recorded(Line):
        def __new__(cls, *arguments):  # type: ignore[no-untyped-def]
            if "val" not in arguments[0]:
                drawn.append(arguments[1])
            return super().__new__(cls, *arguments)

    monkeypatch.setattr(progress_bar, "monotonic", lambda: now)
    monkeypatch.setattr(progress_bar, "Line", Recorded)
    with redirect_stdout(terminal):
        fit(ProgressBar(refresh_rate=rate), Clock())
    assert drawn == expected


@pytest.mark.parametrize("width", [60, 80, 100])
def test_a_terminal_shows_one_line_at_a_time_and_keeps_one_an_epoch(
    width: int, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    with redirect_stdout(terminal):
        fit(ProgressBar(refresh_rate=1e9))
    parts = terminal.parts()
    assert max(map(cell_len, parts)) <= width
    bars = [part for part in parts if "━" in part]
    assert {part.split(" ━")[0] for part in bars} == {"epoch 1/2", "epoch 1/2, val", "epoch 2/2", "epoch 2/2, val"}
    assert len(set(bars)) >= 2 * STEPS
    kept = [part for part in parts if "━" not in part]
    assert [part.split()[1] for part in kept] == ["1/2", "2/2"] and all("val/acc" in part for part in kept)
    assert terminal.getvalue().count("\x1b[?25l") == terminal.getvalue().count("\x1b[?25h")  # the cursor is back


def epochs(printed: str) -> list[dict[str, str]]:
    """The lines of finished epochs: their number, their metrics and seconds."""
    rows = []
    for line in printed.splitlines():
        found = re.fullmatch(r"epoch (\S+)  (.*?)  ?(\d+\.\d) s", line)
        assert found, line
        rows.append({"epoch": found[1], **dict(pair.split(" ") for pair in found[2].split("  ") if pair)})
    return rows


@pytest.mark.parametrize(
    ("settings", "numbers", "validated"),
    [
        ({}, ["1/2", "2/2"], [True, True]),
        ({"max_epochs": 4, "check_val_every_n_epoch": 2}, ["1/4", "2/4", "3/4", "4/4"], [False, True] * 2),
        ({"val_check_interval": 0.3}, ["1/2", "2/2"], [True, True]),
        ({"limit_val_batches": 0}, ["1/2", "2/2"], [False, False]),
        ({"num_sanity_val_steps": 2}, ["1/2", "2/2"], [True, True]),
        ({"max_epochs": -1, "max_steps": 2 * STEPS}, ["1", "2"], [True, True]),
        ({"fast_dev_run": True}, ["1/1"], [True]),
    ],
)
def test_elsewhere_each_epoch_is_one_plain_line(
    settings: dict[str, object], numbers: list[str], validated: list[bool], capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = fit(ProgressBar(), **settings)
    printed = capsys.readouterr().out
    assert "\r" not in printed and "\x1b" not in printed
    rows = epochs(printed)
    assert [row["epoch"] for row in rows] == numbers
    assert ["val/acc" in row for row in rows] == validated and all("train/loss" in row for row in rows)
    assert len({row["train/loss"] for row in rows}) == len(rows), "each line is of its own epoch"
    for name in rows[-1].keys() - {"epoch"}:
        assert float(rows[-1][name]) == pytest.approx(float(trainer.callback_metrics[name]), abs=5e-5)


@pytest.mark.parametrize("in_terminal", [False, True])
def test_a_run_that_breaks_off_gives_the_terminal_back(in_terminal: bool, terminal: Terminal) -> None:
    class Break(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *arguments: object) -> None:
            if trainer.global_step == STEPS + 3:
                raise ValueError("broken")

    output = terminal if in_terminal else io.StringIO()
    with redirect_stdout(output), pytest.raises(ValueError, match="broken"):
        fit(ProgressBar(), Break())
    printed = output.getvalue()
    assert printed.count("epoch 1/2  train/loss") == 1 and "epoch 2/2  train/loss" not in printed
    assert printed.count("\x1b[?25l") == printed.count("\x1b[?25h") == in_terminal


def test_a_rate_of_0_prints_nothing(terminal: Terminal) -> None:
    with redirect_stdout(terminal):
        fit(ProgressBar(refresh_rate=0))
    assert terminal.getvalue() == ""
