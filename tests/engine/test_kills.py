"""SIGKILL at random moments of a real process: started again until it ends, a run is as if it had never died."""

import csv
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from forked_runs import PHASES, Ended, Kill, train
from picture_sources import write_noise
from run_directories import differences
from tiny import TINY

KILLS = int(os.environ.get("KILLS", "3"))
SEED = int(os.environ.get("KILLS_SEED", "1"))

BASE = (
    *(text for text in TINY if not text.startswith(("model", "data", "callbacks.report"))),
    *("trainer.max_epochs=3", "data.batch_size=12", "trainer.precision=32-true", "callbacks.early_stopping=null"),
    *("logger=csv", "confusion_matrix=scalar", "+callbacks.last_checkpoint.every_n_steps=3"),
)
SYNTHETIC = tuple(text for text in TINY if text.startswith("data"))
DROPOUT = ("model=wide_resnet", "model.net.depth=10", "model.net.width=1", "model.net.dropout=0.5")
FILES = ("data=image_folder", "data.root=PICTURES", "data.image_size=8", "data.in_memory=false")
EMA = "+callbacks.averaging={_target_: pytorch_lightning.callbacks.EMAWeightAveraging, decay: 0.9}"
CASES = {
    "dropout": (*SYNTHETIC, *DROPOUT),
    "stochastic depth": (*SYNTHETIC, "model=timm", "model.net.name=test_resnet"),
    "averaging": (*SYNTHETIC, *DROPOUT, EMA),
    "two validations an epoch": (*SYNTHETIC, *DROPOUT, "+trainer.val_check_interval=0.5"),
    "files, two workers": (*FILES, *DROPOUT, "data.num_workers=2"),
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_noise(tmp_path_factory.mktemp("pictures"), 8, 8)


Start = Callable[..., Ended]


@pytest.fixture
def start(pictures: Path, tmp_path: Path) -> Start:
    """Start the run of a case in a directory, or go on with it."""

    def begin(case: str, directory: Path, kill: Kill | None = None) -> Ended:
        if (directory / "checkpoints" / "last.ckpt").exists():
            arguments = [f"resume={directory}"]
        else:
            settings = [text.replace("PICTURES", str(pictures)) for text in (*BASE, *CASES[case])]
            arguments = [*settings, f"hydra.run.dir={directory}"]
        return train(*arguments, output=tmp_path / "output.txt", kill=kill)

    return begin


@pytest.fixture(scope="module")
def done() -> dict[str, tuple[Path, Ended]]:
    return {}


@pytest.fixture
def straight(done: dict, start: Start, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Ended]]:
    """The directory of a run without interruption, and how long its phases took."""

    def make(case: str) -> tuple[Path, Ended]:
        if case not in done:
            directory = tmp_path_factory.mktemp("straight") / "run"
            ended = start(case, directory)
            assert ended.status == 0, ended.output
            done[case] = directory, ended
        return done[case]

    return make


def random_kill(generator: random.Random, phase: str, times: dict[str, list[float]]) -> Kill:
    number = generator.randrange(len(times[phase]))
    return Kill(phase, number, generator.uniform(0, times[phase][number]))


def without_time(path: Path) -> list[dict[str, str]]:
    """The rows of a log, but for what was measured by the clock."""
    with path.open(newline="") as file:
        return [{key: value for key, value in row.items() if "seconds" not in key} for row in csv.DictReader(file)]


@pytest.mark.parametrize("number", range(KILLS))
def test_killed_at_a_random_moment(
    tmp_path: Path,
    start: Start,
    straight: Callable[[str], tuple[Path, Ended]],
    number: int,
    record_property: Callable[[str, object], None],
) -> None:
    """One to three kills, of the run and of what goes on with it, in a random phase each."""
    generator = random.Random(f"{SEED} {number}")
    case = list(CASES)[number % len(CASES)]
    expected, times = straight(case)[0], straight(case)[1].times
    phase = list(PHASES)[(number // len(CASES) + number) % len(PHASES)]
    wanted = generator.choice((1, 1, 2, 3))
    died_in: list[str] = []
    while True:
        kill = random_kill(generator, phase, times) if len(died_in) < wanted else None
        ended = start(case, tmp_path / "run", kill)
        if ended.status == 0:
            break
        assert ended.status == -9, f"after {died_in}:\n{ended.output}"
        died_in.append(ended.died_in)
        phase = generator.choice(list(PHASES))
    record_property("died_in", " ".join(died_in))
    assert differences(expected, tmp_path / "run") == [], died_in
    for name in ("metrics.csv", "final_metrics.csv"):
        assert without_time(tmp_path / "run" / "csv" / name) == without_time(expected / "csv" / name), died_in
    assert not list((tmp_path / "run").rglob(".*.ckpt.*"))
