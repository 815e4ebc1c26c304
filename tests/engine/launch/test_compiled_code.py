"""Where compiled code is kept."""

import os
import stat
import sys
from pathlib import Path

import pytest
import torch

import forked
from image_classifier.engine.launch.compiled_code import CACHE_VARIABLE, keep_compiled_code

TRAIN = "from image_classifier.commands import train; train()"
TINY = (
    *("data=synthetic", "data.num_samples=100", "model=mlp", "model.net.hidden_sizes=[4]", "model.compile=true"),
    *("data.batch_size=16", "trainer.max_epochs=1", "logger=none", "test=false"),
)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv(CACHE_VARIABLE, "")  # so that it is taken back after the test
    monkeypatch.delenv(CACHE_VARIABLE)
    return tmp_path


@pytest.mark.parametrize("variable", [None, ""], ids=["unset", "empty"])
def test_in_the_cache_of_the_user_for_nobody_else(
    home: Path, monkeypatch: pytest.MonkeyPatch, variable: str | None
) -> None:
    if variable is not None:
        monkeypatch.setenv(CACHE_VARIABLE, variable)
    keep_compiled_code()
    kept = home / ".cache" / "torchinductor"
    assert os.environ[CACHE_VARIABLE] == str(kept)
    assert stat.S_IMODE(kept.stat().st_mode) == 0o700


def test_where_the_variables_say(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "elsewhere"))
    keep_compiled_code()
    assert os.environ[CACHE_VARIABLE] == str(home / "elsewhere" / "torchinductor")
    monkeypatch.setenv(CACHE_VARIABLE, str(home / "own"))
    keep_compiled_code()
    assert os.environ[CACHE_VARIABLE] == str(home / "own")
    assert not (home / ".cache").exists()


def test_where_torch_keeps_it_when_there_is_no_place(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "file"))
    keep_compiled_code()
    assert CACHE_VARIABLE not in os.environ


@pytest.mark.slow
@pytest.mark.needs("g++")
def test_a_second_run_compiles_nothing_and_learns_the_same(home: Path) -> None:
    def train(name: str) -> tuple[dict[str, int], dict[str, torch.Tensor]]:
        arguments = [*TINY, f"hydra.run.dir={home}/{name}"]
        done = forked.run([sys.executable, "-c", TRAIN, *arguments], capture_output=True)
        assert done.returncode == 0, done.stderr
        cache = home / ".cache" / "torchinductor"
        libraries = {str(path.relative_to(cache)): path.stat().st_mtime_ns for path in cache.rglob("*.so")}
        checkpoint = torch.load(home / name / "checkpoints" / "last.ckpt", weights_only=True)
        return libraries, checkpoint["state_dict"]

    first, weights = train("first")
    again, same_weights = train("again")
    assert first and again == first
    assert all(torch.equal(weights[key], same_weights[key]) for key in weights)
