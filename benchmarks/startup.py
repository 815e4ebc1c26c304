"""Start-up, jobs of a multirun, and memory, each in processes of their own.

python benchmarks/startup.py
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from common import Row, alternate, write_results

ROOT = Path(__file__).resolve().parents[1]
PAIRS = 5
IMPORTS = "import torch, torchvision, pytorch_lightning"
EMPTY_APP = """
import hydra
@hydra.main(config_path=None)
def app(cfg): pass
app()
"""
# Trains until the first step is done, then leaves at once.
FIRST_STEP = """
import os, sys
import pytorch_lightning as pl
from image_classifier import cli
pl.LightningModule.on_train_batch_end = lambda *arguments: os._exit(0)
sys.argv = ["train.py", *sys.argv[1:]]
cli.train_command()
"""
# Not `resource`, whose peak begins with that of the process that started this one.
PEAK = "from pathlib import Path; print('peak', Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])"


def run(*command: str) -> str:
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=ROOT)
    return done.stdout + done.stderr


def start_up(pairs: int) -> list[Row]:
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        train = ["-c", FIRST_STEP, f"hydra.run.dir={directory}/run"]
        value, note = alternate(lambda: run(*train), lambda: run("-c", IMPORTS), pairs)
        question = "process start to first training step: train.py against a bare import"
        rows.append(Row(question, value, "x", 1.2, samples=pairs, note=note))
        for name, arguments in (("--help", ["--help"]), ("a mistyped override", ["trainer.max_epoch=1"])):
            value, note = alternate(lambda a=arguments: run("train.py", *a), lambda: run("-c", EMPTY_APP), pairs)
            rows.append(Row(f"{name}: train.py against an empty Hydra app", value, "x", 1.3, samples=pairs, note=note))
    return rows


def multirun(jobs: int) -> list[Row]:
    """Wall time of a multirun beyond the sum of its fit times, and growth of its memory."""
    probe = (
        "import json, os, resource, sys, time\n"
        "from pathlib import Path\n"
        "from image_classifier import cli\n"
        "pipeline = cli.import_pipeline()\n"
        "train = pipeline.train\n"
        "marks = []\n"
        "def timed(cfg):\n"
        "    start = time.perf_counter(); result = train(cfg)\n"
        "    pages = int(Path('/proc/self/statm').read_text().split()[1])\n"
        "    fit = json.loads((Path(cfg.paths.run_dir) / 'metrics.json').read_text())['fit_seconds']\n"
        "    marks.append((start, time.perf_counter(), fit, pages * os.sysconf('SC_PAGE_SIZE') / 2**20))\n"
        "    return result\n"
        "pipeline.train = timed\n"
        "sys.argv = ['train.py', *sys.argv[1:]]\n"
        "cli.train_command()\n"
        "print('MARKS' + json.dumps(marks))\n"
    )
    with tempfile.TemporaryDirectory() as directory:
        seeds = ",".join(map(str, range(jobs)))
        output = run(
            "-c", probe, "-m", f"seed={seeds}", "data=synthetic", "model=mlp", "trainer.max_epochs=1",
            "callbacks.progress_bar=null", "callbacks.model_summary=null", f"hydra.sweep.dir={directory}",
        )  # fmt: skip
    marks = json.loads(output.split("MARKS")[1])
    first, last = marks[0], marks[min(9, jobs - 1)]
    extra = (last[1] - first[0] - sum(mark[2] for mark in marks[:10])) / min(10, jobs)
    growth = marks[-1][3] - marks[2][3]
    return [
        Row(
            "time of a multirun's job beyond its fit (tests, reports and logs included)",
            extra,
            "s",
            0.3,
            samples=min(10, jobs),
        ),
        Row(
            f"memory from job 3 to job {jobs} of a multirun",
            growth,
            "MiB",
            20,
            note=f"{marks[2][3]:.0f} to {marks[-1][3]:.0f} MiB",
        ),
    ]


def peak_memory() -> list[Row]:
    def peak(output: str) -> float:
        return int(output.split("peak ")[1].split()[0]) / 1024

    data_mebibytes = 70_000 * (28 * 28 + 8) / 2**20
    bare = peak(run("-c", f"{IMPORTS}; {PEAK}"))
    with tempfile.TemporaryDirectory() as directory:
        code = f"from image_classifier.cli import train_command; train_command(); {PEAK}"
        ours = peak(run("-c", code, "trainer.max_epochs=1", f"hydra.run.dir={directory}/run"))
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
