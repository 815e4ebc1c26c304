"""What a person sees of real processes, in a terminal and in a file, and how their threads wait."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from rich.cells import cell_len

from image_classifier.engine.launch import threads
from image_classifier.engine.project import PROJECT_ROOT
from tiny import TINY

RUN = tuple(override for override in TINY if not override.startswith(("callbacks.progress_bar", "callbacks.model_su")))
PRINTED = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def in_terminal(width: int, *command: str) -> str:
    """Run a command in a terminal of this width; returns all that it wrote."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    environment |= {"TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"}
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, cwd=PROJECT_ROOT)
    os.close(theirs)
    written = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # Linux's end of file
            break
        if not part:
            break
        written += part
    os.close(ours)
    assert process.wait() == 0, written.decode()
    return written.decode()


@pytest.mark.slow
def test_a_run_in_a_terminal_of_80_columns(tmp_path: Path) -> None:
    written = in_terminal(80, sys.executable, "train.py", *RUN, f"hydra.run.dir={tmp_path}/run")
    # The cursor goes up by one line only, the bar's own: nothing that is redrawn was ever wrapped.
    assert set(re.findall(r"\x1b\[(\d*)A", written)) <= {"", "1"}
    lines = [PRINTED.sub("", line) for line in re.split(r"[\r\n]+", written)]
    bars = [line for line in lines if "━" in line and line.startswith(("epoch", "test"))]
    assert {line.split(" ━")[0] for line in bars} >= {"epoch 1/2", "epoch 2/2", "test"}
    assert max(cell_len(line) for line in lines if not line.startswith("Run directory:")) <= 80
    assert [line.split()[1] for line in lines if re.match(r"epoch \S+  ", line)] == ["1/2", "2/2"]
    assert re.search(r"Warning|warn|font cache|not supported by|HINT", written) is None


@pytest.mark.slow
def test_a_run_into_a_file_is_plain_lines(tmp_path: Path) -> None:
    command = [sys.executable, "train.py", *RUN, "trainer.precision=bf16-mixed", f"hydra.run.dir={tmp_path}/run"]
    # The font cache is built where there is none.
    environment = {**os.environ, "MPLCONFIGDIR": str(tmp_path / "matplotlib")}
    done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT_ROOT, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\r" not in done.stdout and "\x1b" not in done.stdout
    epochs = [line for line in done.stdout.splitlines() if line.startswith("epoch")]
    form = r"epoch {}/2  train/loss \d\.\d{{4}}  val/loss \d\.\d{{4}}  val/acc [01]\.\d{{4}}  \d+\.\d s"
    assert len(epochs) == 2
    for number, line in enumerate(epochs, start=1):
        assert re.fullmatch(form.format(number), line), line
    figures = re.findall(r"^│ (\S+) ", done.stdout.partition("Final figures")[2], re.MULTILINE)
    assert figures[:2] == ["test/acc", "test/loss"]


# Notes how threads wait at the moment torch is looked for, and goes no further.
FINDER = """
import os, sys
from image_classifier.engine.launch.threads import WAITING
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print("waiting:", {name: value for name, value in os.environ.items() if name in WAITING})
            sys.stdout.flush()
            os._exit(0)
sys.meta_path.insert(0, Finder())
from image_classifier import commands
sys.argv = ["train.py", *sys.argv[1:]]
commands.train()
"""


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({}, {"GOMP_SPINCOUNT": str(threads.SPINS)}),
        ({"GOMP_SPINCOUNT": "7"}, {"GOMP_SPINCOUNT": "7"}),
        ({"OMP_WAIT_POLICY": "active"}, {"OMP_WAIT_POLICY": "active"}),
        ({"KMP_BLOCKTIME": "0"}, {"KMP_BLOCKTIME": "0"}),
    ],
    ids=["nobody", "spin count", "policy", "block time"],
)
def test_how_threads_wait_is_settled_before_torch_is_loaded(own: dict[str, str], expected: dict[str, str]) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in threads.WAITING} | own
    command = [sys.executable, "-c", FINDER, *TINY, "hydra.run.dir=/nowhere"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT_ROOT, env=environment)
    assert done.stdout == f"waiting: {expected}\n", done.stderr


def test_an_empty_variable_is_no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in threads.WAITING:
        monkeypatch.setenv(name, "")
    threads.settle_waiting()
    assert os.environ["GOMP_SPINCOUNT"] == str(threads.SPINS)
