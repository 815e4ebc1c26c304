"""The run directory: for one process alone, and not left behind by a start that failed."""

from pathlib import Path

import pytest
from filelock import FileLock
from sweeping import TINY, run

from image_classifier import commands
from image_classifier.engine.launch import objects


@pytest.mark.parametrize("name", ["train", "evaluate", "predict"])
def test_a_directory_that_another_run_is_in_is_refused(tmp_path: Path, name: str) -> None:
    settings = TINY if name == "train" else ("ckpt_path=none.ckpt",)
    settings += ("input=none",) if name == "predict" else ()
    (tmp_path / "run").mkdir()
    with FileLock(tmp_path / "run" / ".lock"):  # as the other process holds it
        outcome = run(*settings, f"hydra.run.dir={tmp_path}/run", command=getattr(commands, name))
    assert outcome.status == 2
    assert f"error: expected a directory that no other process is running in but found {tmp_path}/run" in outcome.errors
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]


def test_it_is_free_again_after_a_run(tmp_path: Path) -> None:
    for seed in (1, 2):
        outcome = run(*TINY, "trainer.max_epochs=1", f"seed={seed}", f"hydra.run.dir={tmp_path}/run")
        assert outcome.status == 0, outcome.errors


@pytest.mark.sampled(every=5)
@pytest.mark.parametrize(
    "mistake",
    [
        "ckpt_path=none.ckpt",
        "data.batch_size=0",
        "model.net.hidden_sizes=wrong",
        "+model.net.unknown=1",
        "model.init_from=none.ckpt",
        "+callbacks.x={_target_: subprocess.call}",
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_a_failed_start_leaves_no_directory(tmp_path: Path, mistake: str, nested: bool) -> None:
    directory = tmp_path / "outputs" / "run" if nested else tmp_path / "outputs"
    outcome = run(*TINY, "logger=[tensorboard,csv]", mistake, f"hydra.run.dir={directory}")
    assert outcome.status == 2, outcome.errors
    assert list(tmp_path.iterdir()) == []


def test_a_failed_start_leaves_what_was_there(tmp_path: Path) -> None:
    assert run(*TINY, "trainer.max_epochs=1", f"hydra.run.dir={tmp_path}/run").status == 0
    before = sorted(path for path in (tmp_path / "run").rglob("*") if ".hydra" not in path.parts)
    assert run(*TINY, "ckpt_path=none.ckpt", f"hydra.run.dir={tmp_path}/run").status == 2
    assert sorted(path for path in (tmp_path / "run").rglob("*") if ".hydra" not in path.parts) == before


def test_a_run_that_goes_on_replaces_the_files_that_the_next_one_reads(tmp_path: Path) -> None:
    """Written in place, a file would be half a one for whoever is killed meanwhile."""
    first, run_dir = tmp_path / "first", tmp_path / "run"
    assert run(*TINY, "trainer.max_epochs=1", f"hydra.run.dir={run_dir}").status == 0
    first.hardlink_to(run_dir / ".hydra" / "overrides.yaml")
    before = first.read_text()
    assert run(f"resume={run_dir}", "trainer.max_epochs=2").status == 0
    assert first.read_text() == before
    assert "trainer.max_epochs=2" in (run_dir / ".hydra" / "overrides.yaml").read_text()


@pytest.mark.parametrize("mistake", ["model.net.hidden_sizes=[5]", "seed=5", "data.batch_size=0", "model=nope"])
def test_a_refused_resume_leaves_the_overrides_of_the_run(tmp_path: Path, mistake: str) -> None:
    run_dir = tmp_path / "run"
    assert run(*TINY, "trainer.max_epochs=1", f"hydra.run.dir={run_dir}").status == 0
    before = {path.name: path.read_bytes() for path in (run_dir / ".hydra").iterdir()}
    assert run(f"resume={run_dir}", "trainer.max_epochs=2", mistake).status == 2
    assert {path.name: path.read_bytes() for path in (run_dir / ".hydra").iterdir()} == before


def test_what_ends_a_run_that_had_begun_keeps_its_new_overrides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "EXECUTION_WHITELIST", (*objects.EXECUTION_WHITELIST, "moments.*"))
    run_dir = tmp_path / "run"
    assert run(*TINY, "trainer.max_epochs=1", f"hydra.run.dir={run_dir}").status == 0
    stop = "+callbacks.signal={_target_: moments.SignalAt, moment: on_train_batch_start}"
    ended = run(f"resume={run_dir}", "trainer.max_epochs=3", stop)
    assert ended.status > 128, ended.errors
    assert "trainer.max_epochs=3" in (run_dir / ".hydra" / "overrides.yaml").read_text()
