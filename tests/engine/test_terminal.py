"""Names with escape sequences, markup and newlines in all that commands print: shown, and without effect."""

import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import compare_runs
import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from sweeping import TINY, Outcome, run

from image_classifier import commands
from image_classifier.callbacks.progress_bar import Line
from image_classifier.engine.overrides import quoted
from image_classifier.engine.terminal import CONTROLS, LogFormatter, printable, shell_joined
from odd_names import read_by_bash

HOSTILE = {
    "colour": "\x1b[31mred",
    "title": "\x1b]0;title\x07",
    "C1": "\x9b31mC1",
    "back": "over\rback\x08",
    "line": "two\nlines",
    "turned": "\u202etxt.gpj",
    "markup": "[bold]loud",
    "emoji": ":smile:",
    "dash": "--help",
    "long": "l" * 200,
}
NOT_UTF8 = "caf\udce9"  # refused as a class
PICTURES = tuple(text for text in TINY if not text.startswith("data"))


def acting(text: str) -> list[str]:
    """What would act on a terminal."""
    return CONTROLS.findall(re.sub("[\n\t]", "", text))


@pytest.mark.parametrize("name", [*HOSTILE.values(), NOT_UTF8], ids=[*HOSTILE, "bytes"])
def test_printable(name: str) -> None:
    shown = printable(name)
    assert CONTROLS.search(shown) is None
    assert shown.encode().decode("unicode_escape", "strict") == name or shown == name
    assert printable(shown) == shown


@pytest.mark.parametrize("name", [*HOSTILE.values(), NOT_UTF8, "it's \\n", "a\x1b'b", "$HOME\n`x`"])
def test_a_command_can_be_pasted(name: str) -> None:
    shown = shell_joined(["python", f"data.root={name}", name])
    assert acting(shown) == [] and "\n" not in shown
    assert read_by_bash(shown) == ["python", f"data.root={name}", name]


def test_ordinary_names_stay() -> None:
    for name in ("naïve café", "שלום", "日本", "🙂", "a\\b", "e\u0301", "\N{FAMILY}"):
        assert printable(name) == name


def test_logs_keep_their_lines() -> None:
    record = logging.LogRecord("x", logging.INFO, "", 1, "one \x1b[31m\n\ttwo\r", (), None)
    assert LogFormatter("%(message)s").format(record) == "one \\x1b[31m\n\ttwo\\r"


def test_the_running_line_shows_names() -> None:
    console = Console(width=200, force_terminal=False, color_system=None)
    with console.capture() as captured:
        console.print(Line("epoch 1/2", 1, 2, 1.0, dict.fromkeys(list(HOSTILE.values())[:5], 0.5)))
    assert acting(captured.get()) == []
    assert "\\x1b[31mred 0.5000" in captured.get()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Classes and pictures with such names; one of each cannot be read."""
    root = tmp_path_factory.mktemp("hostile")
    random = np.random.default_rng(1)
    for class_name in HOSTILE.values():
        (root / class_name).mkdir()
        for number in range(4):
            pixels = random.integers(256, size=(8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / class_name / f"{class_name[:100]}{number}.png")
    (root / HOSTILE["colour"] / "\x1b[7mbroken.png").write_bytes(b"no picture")
    (root / HOSTILE["colour"] / "\x1b[7mnotes.txt").write_text("no picture")
    return root


@pytest.fixture(scope="module")
def trained(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    directory = tmp_path_factory.mktemp("trained") / "run\x1b[35m"
    settings = ("data=image_folder", quoted("data.root", str(pictures)), "data.image_size=8", "trainer.max_epochs=1")
    kept = (*(text for text in PICTURES if text != "callbacks.progress_bar=null"), "data.on_error=skip")
    return directory, run(*kept, *settings, quoted("hydra.run.dir", str(directory)))


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "2000")  # nothing is cut off


def check(printed: str, *names: str) -> None:
    assert acting(printed) == []
    for name in names:
        assert printable(name) in printed


def test_training(trained: tuple[Path, Outcome]) -> None:
    directory, outcome = trained
    assert outcome.status == 0, outcome.errors
    check(outcome.output + outcome.errors, "run\x1b[35m", "\x1b[7mbroken.png", *HOSTILE.values())
    for log in directory.glob("*.log"):
        check(log.read_text())


def test_predicting(trained: tuple[Path, Outcome], pictures: Path, tmp_path: Path) -> None:
    checkpoint = quoted("ckpt_path", str(trained[0] / "checkpoints" / "best.ckpt"))
    output = tmp_path / "\x1b[32m.csv"
    told = run(
        *(checkpoint, quoted("input", str(pictures)), quoted("output", str(output)), "trainer=cpu"),
        quoted("hydra.run.dir", str(tmp_path / "predicted")),
        command=commands.predict,
    )
    assert told.status == 2 and output.is_file()  # one could not be read
    check(told.output + told.errors, "\x1b[32m.csv", "\x1b[7mbroken.png")
    assert len(told.errors.splitlines()) == 2


def test_sweeping(tmp_path: Path) -> None:
    names = [*list(HOSTILE.values())[:5], "$frac$\\\\bad$"]
    lists = f"+note={','.join(quoted('', name)[1:] for name in names)}"
    told = run("-m", *TINY, "trainer.max_epochs=1", lists, f"hydra.sweep.dir={tmp_path}/sweep")
    assert told.status == 0, told.errors
    check(told.output + told.errors, *names[:5])


def test_comparing(trained: tuple[Path, Outcome], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory, other = trained[0], tmp_path / "other\x1b[36m"
    shutil.copytree(directory, other)
    text = (other / "config.yaml").read_text()
    (other / "config.yaml").write_text(text + '\nnote: "\\e[33m[bold]"\n')
    compare_runs.main([str(directory), str(other), "--page", str(tmp_path / "page.html")])
    check(capsys.readouterr().out, "other\x1b[36m", "\x1b[33m[bold]")


MISTAKES = [
    (commands.train, "data=image_folder", "data.root", f"/no/{NOT_UTF8}"),
    (commands.train, "data=image_folder", "data.root", "/no/\x1b[31m\nwhere"),
    (commands.train, "model=mlp", "ckpt_path", "no\x9b31m.ckpt"),
    (commands.train, "model=mlp", "resume", "no\x1b]0;x\x07"),
    (commands.train, "model=mlp", "+model.net.\x1b[31m", "1"),
    (commands.train, "model=mlp", "model.optimizer._target_", "no.\x1b[31mthing"),
    (commands.train, "model=\x1b[31m", "seed", "1"),
    (commands.train, "--help", "data.root", "\x1b[31m"),
    (commands.train, "--\x1b[31m", "seed", "1"),
    (commands.predict, "trainer=cpu", "input", "/no/\x1b[31m"),
    (commands.evaluate, "trainer=cpu", "ckpt_path", "no\u202e.ckpt"),
    (commands.export, "check_images=1", "output", "a.\x1b[31m"),
]


@pytest.mark.parametrize(("command", "other", "key", "value"), MISTAKES, ids=[str(number) for number in range(12)])
def test_mistakes(
    command: Callable[[], None], other: str, key: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    more = [] if command is commands.train else [quoted("ckpt_path", "x.ckpt")] * (key != "ckpt_path")
    told = run(other, *more, f"{key}={quoted('', value)[1:]}", "hydra.run.dir=run", command=command)
    assert told.status == (0 if other == "--help" else 2)
    check(told.output + told.errors)
    assert other == "--help" or len(told.errors.splitlines()) <= 3
