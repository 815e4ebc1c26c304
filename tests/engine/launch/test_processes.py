"""Runs in 2 and 3 processes: the same figures as in one, one run directory, and nobody left behind."""

import csv
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, f1_score

import forked
from image_classifier import pipeline
from image_classifier.engine.errors import UserError
from image_classifier.engine.images.batches import EpochBatches
from image_classifier.engine.images.normalization import normalize
from image_classifier.engine.launch import assembly
from image_classifier.engine.launch import processes as distributed
from image_classifier.engine.project import PROJECT_ROOT
from process_tasks import fail, return_rank
from tiny import TINY

NETWORKS = {
    "mlp": ("model=mlp", "model.net.hidden_sizes=[16]"),
    "cnn": ("model=cnn", "model.net.channels=[4,8]", "model.test_time_flip=false"),  # has BatchNorm
}
# Network, images in all, evaluation batch: divides; does not divide; smaller than a batch; a remainder of one sample.
EXACTNESS_CASES = [("cnn", 240, 8), ("cnn", 203, 9), ("cnn", 60, 1000), ("cnn", 65, 3), ("mlp", 203, 9)]
STEPS = 5
BARE = [
    *(override for override in TINY if not override.startswith(("model=", "model.net", "callbacks"))),
    *("trainer.precision=32-true", "trainer.max_epochs=1", "logger=none"),
    *("+trainer.enable_progress_bar=false", "+trainer.enable_model_summary=false"),
    *(f"~callbacks.{name}" for name in ("early_stopping", "model_summary", "learning_rate_monitor", "progress_bar")),
    *(f"~callbacks.{name}" for name in ("sample_images", "report", "misclassified", "calibration")),
]


# The batches that the ranks are dealt.


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_every_sample_is_in_one_batch_of_one_rank(world_size: int, shuffle: bool) -> None:
    for samples, batch_size in product(range(world_size, 40), (1, 2, 5, 16, 100)):
        indices = torch.arange(samples) + 100
        dealt = [
            list(EpochBatches(indices, batch_size, shuffle=shuffle, rank=rank, world_size=world_size))
            for rank in range(world_size)
        ]
        assert sorted(torch.cat([torch.cat(batches) for batches in dealt]).tolist()) == indices.tolist()
        assert len({len(batches) for batches in dealt}) == 1, "a rank with a batch less would be waited for"
        assert all(len(batch) for batches in dealt for batch in batches)


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_together_step_on_what_one_process_with_a_larger_batch_steps_on(world_size: int) -> None:
    indices = torch.arange(57)
    whole = list(EpochBatches(indices, 4 * world_size, shuffle=True, seed=3))
    ranks = [EpochBatches(indices, 4, shuffle=True, seed=3, rank=r, world_size=world_size) for r in range(world_size)]
    for expected, *parts in zip(whole, *ranks, strict=True):
        assert sorted(torch.cat(parts).tolist()) == sorted(expected.tolist())


# Whole trainings. A process costs ten seconds of imports, so that one group of them works through all cases.


class RecordGradients(pl.Callback):
    """Keeps the gradients that the optimizer sees."""

    def __init__(self) -> None:
        self.steps: list[dict[str, torch.Tensor]] = []

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        self.steps.append({name: p.grad.clone() for name, p in pl_module.named_parameters()})  # type: ignore[union-attr]


def train_all(cases: list[DictConfig]) -> list[str]:
    """Train each case, recording gradients where it asks for `STEPS` steps; returns what went wrong in each."""
    torch.set_num_threads(1)
    errors = []
    for cfg in cases:
        try:
            pipeline.train(cfg) if cfg.test else train_recording_gradients(cfg)
            errors.append("")
        except UserError as error:
            errors.append(str(error))
    return errors


def train_recording_gradients(cfg: DictConfig) -> None:
    pl.seed_everything(cfg.seed, verbose=False)
    datamodule = assembly.make_datamodule(cfg)
    trainer = assembly.make_trainer(cfg, [])
    recorder = RecordGradients()
    trainer.callbacks.append(recorder)  # type: ignore[attr-defined]
    model = assembly.make_model(cfg, datamodule)
    trainer.fit(model, datamodule)
    if trainer.is_global_zero:
        weights = {name: p.detach() for name, p in model.named_parameters()}
        Path(cfg.paths.run_dir).mkdir(parents=True, exist_ok=True)
        torch.save({"gradients": recorder.steps, "weights": weights}, Path(cfg.paths.run_dir) / "steps.pt")


Compose = Callable[..., DictConfig]


def exactness_case(
    compose: Compose, directory: Path, processes: int, network: str, samples: int, batch: int
) -> DictConfig:
    return compose(
        *BARE,
        *NETWORKS[network],
        f"paths.run_dir={directory}/{processes}/{network}/{samples}",
        f"data.num_samples={samples}",
        f"data.eval_batch_size={batch}",
        "data.batch_size=8",
        f"trainer.devices={processes}",
        "confusion_matrix=scalar",
    )


def steps_case(compose: Compose, directory: Path, processes: int) -> DictConfig:
    return compose(
        *BARE,
        *NETWORKS["mlp"],
        f"paths.run_dir={directory}/{processes}/steps",
        f"data.batch_size={12 // processes}",
        f"trainer.devices={processes}",
        f"trainer.limit_train_batches={STEPS}",
        "test=false",
        "confusion_matrix=none",
    )


@pytest.fixture(scope="module")
def compose(tmp_path_factory: pytest.TempPathFactory) -> Compose:
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    from image_classifier.engine.launch.configuration import CONFIG_DIR

    def make(*overrides: str) -> DictConfig:
        with initialize_config_dir(CONFIG_DIR):
            return hydra_compose("train", overrides=list(overrides))

    return make


@pytest.fixture(scope="module")
def runs(compose: Compose, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All cases on 1, 2 and 3 processes; the last case of each has fewer samples than processes."""
    directory = tmp_path_factory.mktemp("runs")
    for processes in (1, 2, 3):
        cases = [exactness_case(compose, directory, processes, *case) for case in EXACTNESS_CASES]
        cases.append(steps_case(compose, directory, processes))
        too_small = exactness_case(compose, directory, processes, "mlp", 5, 8)
        too_small.paths.run_dir = f"{directory}/{processes}/too_small"
        cases.append(too_small)
        for cfg in cases:
            cfg.paths.root_dir = str(PROJECT_ROOT)
        run = train_all if processes == 1 else in_processes(processes)
        (directory / str(processes)).mkdir(exist_ok=True)
        (directory / str(processes) / "errors.json").write_text(json.dumps(run(cases)))
    return directory


def in_processes(processes: int) -> Callable[[list[DictConfig]], list[str]]:
    """Train all cases in processes that share the import of the libraries."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*forked.LIBRARIES])

    def run(cases: list[DictConfig]) -> list[str]:
        with patch("multiprocessing.get_context", lambda method: context):
            return distributed.run_in_processes(train_all, cases, processes)

    return run


@pytest.mark.slow
@pytest.mark.sampled(every=7)
@pytest.mark.parametrize(("network", "samples", "batch"), EXACTNESS_CASES)
@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("stage", ["val", "test"])
def test_figures_equal_those_of_the_checkpoint_in_plain_pytorch(
    runs: Path, processes: int, network: str, samples: int, batch: int, stage: str
) -> None:
    run_dir = runs / str(processes) / network / str(samples)
    found = json.loads((run_dir / "metrics.json").read_text())
    model, datamodule = pipeline.load_run(str(run_dir / "checkpoints/best.ckpt"))
    datamodule.setup("fit")
    datamodule.setup("test")
    if stage == "val":
        images, labels = (tensor[datamodule.val_indices] for tensor in datamodule.train_images)  # type: ignore[union-attr]
    else:
        images, labels = datamodule.test_images  # type: ignore[misc]
    model.eval()
    with torch.no_grad():
        logits = model.net(normalize(images, datamodule.mean, datamodule.std))
    predicted = logits.argmax(1)
    expected = {
        "loss": float(F.cross_entropy(logits.double(), labels)),
        "acc": float((predicted == labels).double().mean()),
        "balanced_acc": balanced_accuracy_score(labels, predicted),
        "macro_f1": f1_score(labels, predicted, average="macro"),
        "weighted_f1": f1_score(labels, predicted, average="weighted"),
    }
    assert {name: found[f"{stage}/{name}"] for name in expected} == pytest.approx(expected, abs=1e-6)
    with (run_dir / "confusion_matrix" / f"{stage}.csv").open() as file:
        counts = [[int(cell) for cell in row[1:]] for row in list(csv.reader(file))[1:]]
    assert counts == confusion_matrix(labels, predicted, labels=range(datamodule.num_classes)).tolist()
    assert sum(map(sum, counts)) == len(labels)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_gradients_and_weights_equal_those_of_one_process_with_a_larger_batch(runs: Path, processes: int) -> None:
    one, several = (torch.load(runs / str(count) / "steps/steps.pt") for count in (1, processes))
    assert len(one["gradients"]) == len(several["gradients"]) == STEPS
    for expected, found in zip(one["gradients"], several["gradients"], strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
        assert any(gradient.abs().max() > 1e-2 for gradient in expected.values()), "nothing was compared"
    torch.testing.assert_close(several["weights"], one["weights"], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_fewer_samples_than_processes_are_told_and_nothing_hangs(runs: Path, processes: int) -> None:
    *fine, too_small = json.loads((runs / str(processes) / "errors.json").read_text())
    assert not any(fine)
    assert f"expected at least one image for each of {processes} processes but found 1" in too_small
    assert "trainer.devices=1" in too_small


# Starting and ending processes. What runs in them imports no torch, so that a process costs half a second.


def test_result_comes_from_rank_0_and_the_environment_stays_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "7")
    monkeypatch.setenv("SLURM_NTASKS", "1")
    before = dict(os.environ)
    assert distributed.run_in_processes(return_rank, "rank", 2) == "rank 0 of 2"
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ("exit", distributed.ProcessError, "process 1 of 2 .* status 3"),
        ("signal", distributed.ProcessError, "process 1 of 2 .* status -9"),
        ("error", distributed.ProcessError, "ValueError: an error"),
        ("mistake", UserError, "a mistake"),
    ],
)
def test_one_failed_process_ends_the_others(
    how: str, error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "GRACE", 0.1)
    with pytest.raises(error, match=f"(?s){message}"):
        distributed.run_in_processes(fail, how, 2)
    assert not children_of(os.getpid())


SLEEPERS = """
import time
from image_classifier.engine import interruption
from image_classifier.engine.launch import processes as distributed

if __name__ == "__main__":
    with interruption.command():
        distributed.run_in_processes(time.sleep, 60, 2)
"""


@pytest.fixture
def sleepers(tmp_path: Path) -> Iterator[tuple[subprocess.Popen, set[int]]]:
    """A process of a group of its own that waits for two ranks, and the process ids of these."""
    script = tmp_path / "sleepers.py"
    script.write_text(SLEEPERS)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what is ignored here would be ignored there
    parent = subprocess.Popen([sys.executable, script], stderr=subprocess.DEVNULL, process_group=0)
    try:
        yield parent, wait_until(lambda: ranks if len(ranks := children_of(parent.pid)) == 2 else set())
    finally:
        parent.kill()
        parent.wait()


@pytest.mark.parametrize(
    ("stop", "status"),
    [
        pytest.param(lambda pid: os.kill(pid, signal.SIGINT), 130, id="interrupt"),
        pytest.param(lambda pid: os.killpg(pid, signal.SIGINT), 130, id="interrupt of the group"),
        pytest.param(lambda pid: os.kill(pid, signal.SIGTERM), 143, id="termination"),
        pytest.param(lambda pid: os.kill(pid, signal.SIGKILL), -9, id="kill"),
    ],
)
def test_no_process_outlives_its_parent(
    sleepers: tuple[subprocess.Popen, set[int]], stop: Callable[[int], None], status: int
) -> None:
    parent, ranks = sleepers
    stop(parent.pid)
    assert parent.wait(timeout=30) == status
    wait_until(lambda: not any(is_running(rank) for rank in ranks))


def children_of(pid: int) -> set[int]:
    """The ranks that a process has started, without multiprocessing's resource tracker."""
    listing = subprocess.run(
        ["ps", "-ww", "-eo", "pid,ppid,stat,args"], capture_output=True, text=True, check=True
    ).stdout
    rows = (line.split(None, 3) for line in listing.splitlines()[1:])
    return {int(own) for own, parent, state, args in rows if int(parent) == pid and "spawn_main" in args}


def is_running(pid: int) -> bool:
    listing = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout
    return bool(listing.strip()) and not listing.startswith("Z")


def wait_until(condition: Callable[[], Any], seconds: float = 30) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
    return found


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"devices": 1}, 1),
        ({"devices": 3}, 3),
        ({"devices": "2"}, 2),
        ({"devices": [0, 3]}, 2),
        ({"devices": "0,1,2"}, 3),
        ({"devices": "auto"}, 1),
        ({}, 1),
    ],
)
def test_number_of_processes(settings: dict[str, Any], expected: int) -> None:
    assert distributed.number_of_processes(DictConfig({"accelerator": "cpu", **settings})) == expected


@pytest.mark.parametrize(
    ("settings", "advice"),
    [
        ({"devices": 0}, "trainer.devices=2"),
        ({"devices": "many"}, "trainer.devices=2"),
        ({"num_nodes": 2}, "torchrun"),
        ({"devices": 2, "strategy": "ddp_spawn"}, "trainer=ddp"),
    ],
)
def test_bad_number_of_processes(settings: dict[str, Any], advice: str) -> None:
    with pytest.raises(UserError, match=advice):
        distributed.number_of_processes(DictConfig({"accelerator": "cpu", **settings}))


# Commands, as users type them.

COMMAND = (*TINY, "trainer.max_epochs=1", "logger=csv")


def files_below(directory: Path, name: str) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob(name))


@pytest.mark.slow
def test_multirun_trains_each_job_once_in_its_own_directory(run_script: Callable, tmp_path: Path) -> None:
    result = run_script(
        "train.py", "-m", *COMMAND, "trainer.devices=2", "seed=1,2", f"hydra.sweep.dir={tmp_path}/sweep", cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("Final figures") == 2, "rank 1 is silent"
    assert files_below(tmp_path, "metrics.json") == ["sweep/0/metrics.json", "sweep/1/metrics.json"]
    assert files_below(tmp_path, "metrics.csv") == ["sweep/0/csv/metrics.csv", "sweep/1/csv/metrics.csv"]
    assert files_below(tmp_path, "config.yaml") == [
        f"sweep/{job}/{file}" for job in (0, 1) for file in (".hydra/config.yaml", "config.yaml")
    ]
    for job in (0, 1):
        counts = (tmp_path / f"sweep/{job}/confusion_matrix/test.csv").read_text().splitlines()[1:]
        assert sum(int(cell) for row in counts for cell in row.split(",")[1:]) == 40


@pytest.mark.slow
def test_fewer_samples_than_processes_are_told_in_one_line(run_script: Callable, tmp_path: Path) -> None:
    result = run_script("train.py", *COMMAND, "trainer.devices=2", "data.val_size=1", f"hydra.run.dir={tmp_path}/run")
    assert result.returncode == 2
    assert result.stderr.count("error: expected at least one image for each of 2 processes but found 1") == 1
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "run" / "metrics.json").exists()


@pytest.mark.slow
def test_torchrun_on_two_nodes_gives_one_run_directory(tmp_path: Path) -> None:
    port = 20_000 + os.getpid() % 10_000
    nodes = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"),
                *(f"--node-rank={node}", "--master-addr=127.0.0.1", f"--master-port={port}"),
                *(str(PROJECT_ROOT / "train.py"), *COMMAND, f"paths.output_dir={tmp_path}"),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for node in (0, 1)
    ]
    outputs = [node.communicate(timeout=300)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], outputs
    assert [output.count("Final figures") for output in outputs] == [1, 0]
    (run_dir,) = (tmp_path / "train").iterdir()
    assert files_below(run_dir, "metrics.*") == ["csv/metrics.csv", "metrics.json"]
    assert "num_nodes: 2" in (run_dir / "config.yaml").read_text()
    counts = (run_dir / "confusion_matrix/test.csv").read_text().splitlines()[1:]
    assert sum(int(cell) for row in counts for cell in row.split(",")[1:]) == 40


@pytest.mark.slow
def test_tasks_of_srun_work_on_the_jobs_of_task_0(tmp_path: Path) -> None:
    port = 30_000 + os.getpid() % 10_000
    job = {"SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "train", "SLURM_STEP_ID": "0", "SLURM_NODELIST": "127.0.0.1"}
    sizes = {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "1", "SLURM_NNODES": "2", "MASTER_PORT": str(port)}
    command = [sys.executable, str(PROJECT_ROOT / "train.py"), "-m", *COMMAND, "seed=1,2"]
    tasks = [
        subprocess.Popen(
            [*command, f"paths.output_dir={tmp_path}"],
            env={**os.environ, **job, **sizes, "SLURM_PROCID": task, "SLURM_NODEID": task, "SLURM_LOCALID": "0"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for task in ("0", "1")
    ]
    outputs = [task.communicate(timeout=300)[0] for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], outputs
    assert [output.count("Final figures") for output in outputs] == [2, 0]
    (sweep_dir,) = (tmp_path / "sweep").iterdir()
    assert files_below(sweep_dir, "metrics.json") == ["0/metrics.json", "1/metrics.json"]


@pytest.mark.slow
def test_interrupt_of_a_training_leaves_no_process(tmp_path: Path) -> None:
    command = [sys.executable, str(PROJECT_ROOT / "train.py"), *COMMAND, "trainer=ddp", "trainer.accelerator=cpu"]
    parent = subprocess.Popen(
        [*command, "trainer.max_epochs=100000", "callbacks.early_stopping=null", f"hydra.run.dir={tmp_path}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        process_group=0,
    )
    try:
        wait_until(lambda: (tmp_path / "checkpoints/last.ckpt").exists(), seconds=300)
        ranks = children_of(parent.pid)
        os.killpg(parent.pid, signal.SIGINT)
        assert parent.wait(timeout=30) == 130
        assert len(ranks) == 2
        assert not any(is_running(rank) for rank in ranks)
    finally:
        parent.kill()


def test_slurm_script_is_valid_bash() -> None:
    subprocess.run(["bash", "-n", PROJECT_ROOT / "scripts/slurm_train.sh"], check=True)
