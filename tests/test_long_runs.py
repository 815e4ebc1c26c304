"""Long runs, many jobs, many processes: memory, open files and threads stay what they are after the first tenth."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from image_classifier.engine.project import PROJECT_ROOT
from run_directories import same
from tiny import TINY, TINY_DATA, TINY_WITH_DRAWINGS

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="what a process takes is read from Linux's /proc"),
]

LONG = bool(os.environ.get("LONG"))
EPOCHS, JOBS, PROCESSES = (200, 200, 8) if LONG else (30, 30, 3)
GROWTH = 0.04  # of the memory after the first tenth: what allocators do not give back at once
GROWTH_OF_A_JOB = 0.1  # MB; what Hydra kept of a job took 0.25
SHORT = ("data.num_samples=60", "trainer.precision=32-true", "callbacks.early_stopping=null")
LOGGERS = "logger=[csv,tensorboard,wandb,mlflow,trackio]"

SCRIPT = """
import os, sys
sys.path[:0] = os.environ["SEARCH"].split(os.pathsep)
import torch
torch.set_num_threads(1)
from image_classifier import commands
from image_classifier.engine.launch import objects
objects.EXECUTION_WHITELIST = (*objects.EXECUTION_WHITELIST, "moments.*")
sys.argv = ["train.py", *sys.argv[1:]]
commands.train()
"""


class Taken(NamedTuple):
    """What a process took, in the order of its epochs or jobs."""

    megabytes: np.ndarray
    files: np.ndarray
    threads: np.ndarray


def start(directory: Path, *arguments: str) -> subprocess.Popen:
    search = os.pathsep.join([str(PROJECT_ROOT / "src"), str(PROJECT_ROOT / "tests")])
    environment = {**os.environ, "SEARCH": search, "WANDB_MODE": "offline", "TRACKIO_DIR": str(directory / "trackio")}
    environment["HOME"] = str(directory)
    with (directory / "output.txt").open("w") as output:
        return subprocess.Popen(
            [sys.executable, "-c", SCRIPT, *arguments], env=environment, stdout=output, stderr=subprocess.STDOUT
        )


def usage(path: Path, moment: str = "on_train_epoch_end") -> str:
    return f"+callbacks.usage={{_target_: moments.Usage, path: '{path}', moment: {moment}}}"


def read(path: Path) -> Taken:
    memory, files, threads = np.loadtxt(path, ndmin=2).T
    return Taken(memory / 2**20, files, threads)


def check_flat(
    taken: Taken,
    note: Callable[[str, object], None],
    room: Callable[[float], float] = lambda megabytes: GROWTH * megabytes,
) -> None:
    """Compare the last tenth with the second, by medians.

    Args:
        taken: What is compared.
        note: Takes what is seen.
        room: MB that may come to so many.
    """
    tenth = len(taken.files) // 10
    early, late = (
        [float(np.median(series[part])) for series in taken] for part in (slice(tenth, 2 * tenth), slice(-tenth, None))
    )
    note("MB, files, threads after a tenth", " ".join(f"{value:.0f}" for value in early))
    note("at the end", " ".join(f"{value:.0f}" for value in late))
    assert late[0] <= early[0] + room(early[0]), taken.megabytes[::tenth]
    assert late[1] <= early[1], taken.files[::tenth]
    assert late[2] <= early[2], taken.threads[::tenth]


def test_many_epochs_with_all_forms_and_loggers(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    settings = (*TINY_WITH_DRAWINGS, *SHORT, "confusion_matrix=all", LOGGERS, f"trainer.max_epochs={EPOCHS}")
    places = (f"hydra.run.dir={tmp_path}/run", f"paths.output_dir={tmp_path}")
    process = start(tmp_path, *settings, *places, usage(tmp_path / "usage"))
    assert process.wait(1200) == 0, (tmp_path / "output.txt").read_text()[-3000:]
    taken = read(tmp_path / "usage")
    assert len(taken.files) == EPOCHS
    check_flat(taken, record_property)


def test_many_jobs_in_one_process(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    settings = (*TINY, *SHORT, "confusion_matrix=image", "logger=[csv,tensorboard]", "trainer.max_epochs=1")
    places = (f"hydra.sweep.dir={tmp_path}/sweep", f"seed=range({JOBS})")
    process = start(tmp_path, "-m", *settings, *places, usage(tmp_path / "usage", "on_fit_end"))
    assert process.wait(1200) == 0, (tmp_path / "output.txt").read_text()[-3000:]
    taken = read(tmp_path / "usage")
    assert len(taken.files) == JOBS
    check_flat(taken, record_property, lambda _: GROWTH_OF_A_JOB * JOBS)


def test_many_processes_on_one_directory_of_data(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """All at once decode the same pictures into the same cache, and each trains as if it were alone."""
    random = np.random.default_rng(1)
    for number in range(120):
        path = tmp_path / "pictures" / "abc"[number % 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(256, size=(40, 50, 3), dtype=np.uint8)).save(path)
    data = ("data=image_folder", f"data.root={tmp_path}/pictures", "data.image_size=16", "logger=csv")
    settings = (*(text for text in TINY if text not in TINY_DATA), *SHORT[1:], *data)
    epochs = ("trainer.max_epochs=20", "data.in_memory=false", f"data.cache={tmp_path}/cache", "data.num_workers=0")
    processes = []
    for number in range(PROCESSES):
        (tmp_path / str(number)).mkdir()
        places = (f"hydra.run.dir={tmp_path}/{number}/run", usage(tmp_path / str(number) / "usage"))
        processes.append(start(tmp_path / str(number), *settings, *epochs, *places))
    for number, process in enumerate(processes):
        assert process.wait(600) == 0, (tmp_path / str(number) / "output.txt").read_text()[-3000:]
    weights = [
        torch.load(tmp_path / str(number) / "run" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for number in range(PROCESSES)
    ]
    assert all(same(weights[0], other) for other in weights[1:])
    check_flat(read(tmp_path / "0" / "usage"), record_property)
