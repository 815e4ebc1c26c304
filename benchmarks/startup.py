"""Start-up, jobs of a multirun, and memory, each in processes of their own.

python benchmarks/startup.py
"""

from common import Row, alternate, write_results

# isort: split
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from epoch import SCALED, slower

ROOT = Path(__file__).resolve().parents[1]
PAIRS = 5
IMPORTS = "import torch, torchvision, pytorch_lightning"
EMPTY_APP = """
import hydra
@hydra.main(config_path=None)
def app(cfg): pass
app()
"""
# Hydra's own answers over the same files: what composing them takes at least.
SAME_FILES = f"""
import hydra
@hydra.main(config_path={str(ROOT / "configs")!r}, config_name="train")
def app(cfg): pass
app()
"""
# Trains until the first step is done, then leaves at once.
FIRST_STEP = """
import os, sys
from image_classifier import commands
from image_classifier.models.classifier import Classifier
Classifier.on_train_batch_end = lambda *arguments: os._exit(0)
sys.argv = ["train.py", *sys.argv[1:]]
commands.train()
"""
# Writes its peak of memory in KiB to the file that is named first. Not by `resource`, whose peak begins with that of
# the process that started this one.
PEAK = """
from pathlib import Path
Path(results).write_text(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])
"""
# Runs a multirun, and writes a list to the file that is named first: of each job start, end, seconds of its fit, MiB.
JOBS = """
import json, os, sys, time
from pathlib import Path
from image_classifier import commands
results = sys.argv.pop(1)
from image_classifier import pipeline
train = pipeline.train
jobs = []
def timed(cfg):
    start = time.perf_counter()
    result = train(cfg)
    pages = int(Path('/proc/self/statm').read_text().split()[1])
    fit = json.loads((Path(cfg.paths.run_dir) / 'metrics.json').read_text())['fit_seconds']
    jobs.append((start, time.perf_counter(), fit, pages * os.sysconf('SC_PAGE_SIZE') / 2**20))
    return result
pipeline.train = timed
sys.argv[0] = 'train.py'
commands.train()
Path(results).write_text(json.dumps(jobs))
"""


def run(*command: str) -> None:
    subprocess.run([sys.executable, *command], capture_output=True, cwd=ROOT)


def results(code: str, *arguments: str) -> Any:
    """Run code in a process of its own that writes its results to the file named by its first argument."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "results.json"
        command = [sys.executable, "-c", code, str(path), *arguments]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=ROOT)
        if not path.exists():
            raise RuntimeError(f"{arguments} ended with status {done.returncode} and without results:\n{done.stderr}")
        return json.loads(path.read_text())


def start_up(pairs: int) -> list[Row]:
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        train = ["-c", FIRST_STEP, f"hydra.run.dir={directory}/run"]
        value, note = alternate(lambda: run(*train), lambda: run("-c", IMPORTS), pairs)
        question = "process start to first training step: train.py against a bare import"
        rows.append(Row(question, value, "x", 1.1, samples=pairs, note=note))
        for name, arguments in (("--help", ["--help"]), ("a mistyped override", ["trainer.max_epoch=1"])):
            value, note = alternate(lambda a=arguments: run("train.py", *a), lambda: run("-c", EMPTY_APP), pairs)
            rows.append(Row(f"{name}: train.py against an empty Hydra app", value, "x", 1.25, samples=pairs, note=note))
            value, note = alternate(
                lambda a=arguments: run("train.py", *a), lambda a=arguments: run("-c", SAME_FILES, *a), pairs
            )
            question = f"{name}: train.py against Hydra's own answer over the same files"
            rows.append(Row(question, value, "x", 1.0, samples=pairs, note=note))
    return rows


def multirun(jobs: int) -> list[Row]:
    """Wall time of a multirun beyond the sum of its fit times, and growth of its memory."""
    with tempfile.TemporaryDirectory() as directory:
        seeds = ",".join(map(str, range(jobs)))
        marks = results(
            JOBS, "-m", f"seed={seeds}", "data=synthetic", "model=mlp", "trainer.max_epochs=1",
            "callbacks.progress_bar=null", "callbacks.model_summary=null", f"hydra.sweep.dir={directory}",
        )  # fmt: skip
    first, last = marks[0], marks[min(9, jobs - 1)]
    extra = (last[1] - first[0] - sum(mark[2] for mark in marks[:10])) / min(10, jobs)
    growth = marks[-1][3] - marks[2][3]
    question = "time of a multirun's job beyond its fit (tests, reports and logs included)"
    factor, why = slower()
    return [
        Row(question, extra, "s", 0.4, samples=min(10, jobs)),
        Row(f"{question}, {SCALED}", extra / factor, "s", 0.4, samples=min(10, jobs), note=why),
        Row(
            f"memory from job 3 to job {jobs} of a multirun",
            growth,
            "MiB",
            20,
            note=f"{marks[2][3]:.0f} to {marks[-1][3]:.0f} MiB",
        ),
    ]


def peak_memory() -> list[Row]:
    data_mebibytes = 70_000 * (28 * 28 + 8) / 2**20
    take = "import sys; results = sys.argv.pop(1)"
    bare = results(f"{take}; {IMPORTS}{PEAK}") / 1024
    with tempfile.TemporaryDirectory() as directory:
        code = f"{take}; from image_classifier.commands import train; train(){PEAK}"
        ours = results(code, "trainer.max_epochs=1", f"hydra.run.dir={directory}/run") / 1024
    note = f"{ours:.0f} MiB against {bare:.0f} MiB + {data_mebibytes:.0f} MiB"
    return [
        Row(
            "peak memory of the default experiment against bare import + data",
            ours / (bare + data_mebibytes),
            "x",
            1.2,
            note=note,
        )
    ]


def main(pairs: int = PAIRS, jobs: int = 20) -> list[Row]:
    rows = start_up(pairs) + multirun(jobs) + peak_memory()
    write_results("startup", rows)
    return rows


if __name__ == "__main__":
    main()
