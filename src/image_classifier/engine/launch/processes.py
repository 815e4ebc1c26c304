"""Data-parallel runs: N processes, one composed configuration, one run directory.

Two ways lead to N processes:

- `python train.py trainer=ddp`: this process composes the configuration, starts N others that receive it, and takes
  no part in the training itself (`run_in_processes`). It needs no torch, and nothing of a job stays behind in it.
- `torchrun train.py` or `srun python train.py`: the N processes are there already. Only rank 0 runs Hydra; the
  others wait for the configurations that it composes (`lead_or_follow`).

Lightning's own launcher runs the command line once more in every process instead: each composes anew, with a run
directory of its own, and in a multirun each starts the whole sweep.
"""

import contextlib
import gc
import itertools
import os
import pickle
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import configure_log, setup_globals
from omegaconf import DictConfig, OmegaConf, open_dict

from image_classifier.engine import interruption
from image_classifier.engine.errors import UserError

if TYPE_CHECKING:  # imported where it is used: most commands never start a process
    from multiprocessing.connection import Connection

Task = Callable[[DictConfig], Any]

GRACE = 15.0  # seconds in which processes may end by themselves after a failure or an interrupt
OUR_LAUNCH = {"RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}


class Job(NamedTuple):
    """What a process needs to work on a job that another one has composed."""

    config: dict[Any, Any]  # resolved, plain
    hydra_config: Any  # what HydraConfig holds; None outside Hydra


class Outcome(NamedTuple):
    """What a process reports when it is through; at most one of the two messages is there."""

    result: Any = None
    user_error: str | None = None
    error: str | None = None  # a formatted traceback


class Rank(NamedTuple):
    """A process that `run_in_processes` started."""

    process: Any
    report: "Connection"


class ProcessError(RuntimeError):
    """A process of a data-parallel run failed."""


def run(task: Task, cfg: DictConfig) -> Any:
    """Run a task in as many processes as the configuration, or the launcher outside, asks for.

    Args:
        task: A function of a module, so that other processes can import it.
        cfg: The composed configuration.

    Returns:
        What the task returned on rank 0.

    Raises:
        UserError: The task raised it, or the number of processes makes no sense.
        ProcessError: A process raised something else, or died.
    """
    if leader is not None:
        return leader.run(task, cfg)
    trainer = cfg.get("trainer")
    processes = 1 if trainer is None or outer_world_size() > 1 else number_of_processes(trainer)
    return task(cfg) if processes == 1 else run_in_processes(partial(perform, task), capture(cfg), processes)


def number_of_processes(trainer: DictConfig) -> int:
    """How many processes a trainer's settings ask for on this machine."""
    if trainer.get("num_nodes", 1) != 1:
        raise UserError(
            f"expected torchrun or srun to start the processes because trainer.num_nodes={trainer.num_nodes} but found "
            "neither; for example: torchrun --nnodes=2 --nproc-per-node=1 train.py (docs/scaling.md)"
        )
    devices = trainer.get("devices", 1)
    if devices in ("auto", -1, "-1"):
        count = 1 if trainer.accelerator == "cpu" else visible_gpus()
    elif OmegaConf.is_list(devices):
        count = len(devices)
    elif str(devices).replace(",", "").isdecimal():
        count = len(devices.strip(",").split(",")) if "," in str(devices) else int(devices)
    else:
        count = 0
    if count < 1:
        raise UserError(
            f"expected trainer.devices to be a number of processes but found {devices}; use trainer.devices=2"
        )
    if count > 1 and str(trainer.get("strategy", "auto")).startswith(("ddp_spawn", "ddp_fork", "ddp_notebook")):
        raise UserError(f"expected a strategy that starts no processes but found {trainer.strategy}; use trainer=ddp")
    return count


def visible_gpus() -> int:
    import torch

    return max(1, torch.cuda.device_count())


def capture(cfg: DictConfig) -> Job:
    """Settle the configuration: another process must not resolve, say, a time stamp once more."""
    config = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(config, dict)
    return Job(config, HydraConfig.instance().cfg)


def perform(task: Task, job: Job) -> Any:
    """Run a task on a job that another process has composed, with `HydraConfig` as it is there."""
    setup_globals()
    HydraConfig.instance().cfg = job.hydra_config
    if job.hydra_config is not None and own_rank() == 0:
        configure_log(HydraConfig.get().job_logging, HydraConfig.get().verbose)  # type: ignore[arg-type]
    cfg = OmegaConf.create(job.config)
    OmegaConf.set_struct(cfg, True)
    return task(cfg)


def own_rank() -> int:
    return int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", 0)))


# One machine: this process starts the others.


def run_in_processes(function: Callable[[Any], Any], argument: Any, processes: int) -> Any:
    """Call a function in new processes that find each other as the ranks of one group.

    None of them outlives this call, or this process, whichever way either ends.

    Args:
        function: Importable by its name.
        argument: Picklable.
        processes: Their number, at least 1.

    Returns:
        What the function returned on rank 0.

    Raises:
        UserError: A process raised it.
        ProcessError: A process raised something else, or died.
    """
    from multiprocessing import get_context

    context = get_context("spawn")
    ranks: list[Rank] = []
    with reserved_port() as port, interruption.listening():
        try:
            with signals_kept_for_later():
                for rank in range(processes):
                    report, theirs = context.Pipe(duplex=False)
                    arguments = (function, argument, rank, processes, port, theirs)
                    process = context.Process(target=work, args=arguments, name=f"rank {rank}")
                    process.start()
                    ranks.append(Rank(process, report))
                    theirs.close()  # so that the pipe ends when the process does
            return results(ranks)[0]
        except (KeyboardInterrupt, interruption.Interrupted) as stop:
            pass_on(getattr(stop, "number", signal.SIGINT), ranks)
            raise
        finally:
            end(ranks)


@contextlib.contextmanager
def signals_kept_for_later() -> Iterator[None]:
    """Let signals wait: here until the end of the block, in processes that start in it until they can handle them."""
    numbers = {signal.SIGINT, signal.SIGTERM}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def pass_on(number: int, ranks: list[Rank]) -> None:
    """Have the processes end as a signal asks, finishing what they must; a second signal kills them."""
    for process, _ in ranks:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)
    try:
        for process, _ in ranks:
            process.join()
    except (KeyboardInterrupt, interruption.Interrupted):
        for process, _ in ranks:
            process.kill()


def results(ranks: list[Rank]) -> list[Any]:
    """Wait for every process's result; raise as soon as one of them fails."""
    from multiprocessing.connection import Connection, wait

    found: dict[int, Any] = {}
    waiting = {rank.report: number for number, rank in enumerate(ranks)}
    while waiting:
        for report in wait(list(waiting)):
            assert isinstance(report, Connection)
            number = waiting.pop(report)
            try:
                outcome = report.recv()
            except EOFError:
                ranks[number].process.join()
                status = ranks[number].process.exitcode
                outcome = Outcome(error=f"it ended with status {status}" + " (a signal's number)" * (status < 0))
            if outcome.user_error is not None:
                raise UserError(outcome.user_error)
            if outcome.error is not None:
                raise ProcessError(f"process {number} of {len(ranks)} (from 0) failed: {outcome.error}")
            found[number] = outcome.result
    return [found[number] for number in range(len(ranks))]


def end(ranks: list[Rank]) -> None:
    """Wait a little for the processes, then kill those that hang, as in a collective that lost a partner."""
    deadline = time.monotonic() + GRACE
    for process, _ in ranks:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()


@contextlib.contextmanager
def reserved_port() -> Iterator[int]:
    """A port of this machine that nobody else is given, though rank 0 may listen on it (SO_REUSEADDR)."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


def work(
    function: Callable[[Any], Any], argument: Any, rank: int, processes: int, port: int, report: "Connection"
) -> None:
    """What a process of `run_in_processes` does."""
    os.setpgid(0, 0)  # a Ctrl-C goes to the parent, which passes it on exactly once
    gc.disable()  # as a command does at its start: `import_once` switches it on again
    try:
        with interruption.listening():
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
            outcome = outcome_of(function, argument, rank, processes, port)
            report.send(outcome)
    except (KeyboardInterrupt, interruption.Interrupted) as stop:
        sys.exit(128 + getattr(stop, "number", signal.SIGINT))  # the parent, who passed it on, waits for no report
    sys.exit(2 if outcome.user_error else 1 if outcome.error else 0)


def outcome_of(function: Callable[[Any], Any], argument: Any, rank: int, processes: int, port: int) -> Outcome:
    """Call the function as one of the ranks of a group."""
    threading.Thread(target=end_with_parent, daemon=True).start()
    for key in list(os.environ):  # of a launcher around the parent; these ranks are a group of their own
        if key.startswith("TORCHELASTIC_") or key in ("SLURM_NTASKS", *OUR_LAUNCH):
            del os.environ[key]
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    try:
        with quiet(rank > 0):
            return Outcome(result=function(argument))
    except UserError as error:
        return Outcome(user_error=str(error))
    except Exception:
        return Outcome(error="\n" + traceback.format_exc())


def end_with_parent() -> None:
    from multiprocessing import parent_process
    from multiprocessing.connection import wait

    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


@contextlib.contextmanager
def quiet(silent: bool) -> Iterator[None]:
    """Keep the terminal to rank 0."""
    if not silent:
        yield
        return
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):  # noqa: PTH123
        yield


# Started from outside: the processes are there already.


class Leader:
    """Rank 0 under torchrun or srun: hands each job to the other ranks before it starts on it.

    Args:
        store: The key-value store that all ranks reach.
    """

    def __init__(self, store: Any) -> None:
        self.store = store
        self.jobs = 0

    def run(self, task: Task, cfg: DictConfig) -> Any:
        set_world(cfg)
        self.hand_out(pickle.dumps(capture(cfg)))
        return task(cfg)

    def hand_out(self, message: bytes) -> None:
        self.store.set(f"job {self.jobs}", message)
        self.jobs += 1


leader: Leader | None = None
NO_MORE = b"no more jobs"


def lead_or_follow(main: Callable[[], None], task: Task) -> Callable[[], None]:
    """Wrap a Hydra command so that under torchrun or srun rank 0 alone runs it, and the others work on its jobs.

    Args:
        main: The command; it runs its jobs by `run`.
        task: What a job does.
    """

    def start() -> None:
        world_size = outer_world_size()
        if world_size == 1:
            main()
        elif not is_follower():
            lead(connect(world_size), world_size, main)
        else:
            with quiet(True):
                follow(connect(world_size), task)

    return start


def outer_world_size() -> int:
    """How many processes torchrun or srun has started; 1 when neither did."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return int(os.environ["WORLD_SIZE"])
    if "SLURM_STEP_ID" in os.environ and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        return int(os.environ.get("SLURM_NTASKS", 1))
    return 1


def is_follower() -> bool:
    """Whether another process of torchrun's or srun's speaks for this one."""
    return outer_world_size() > 1 and own_rank() > 0


def set_world(cfg: DictConfig) -> None:
    """The launcher outside decides on the processes, so nobody has to say their number twice."""
    world_size = outer_world_size()
    if "TORCHELASTIC_RUN_ID" in os.environ:
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
    else:
        devices = world_size // int(os.environ["SLURM_NNODES"])
    with open_dict(cfg):
        cfg.trainer.devices = devices
        cfg.trainer.num_nodes = world_size // devices


def connect(world_size: int) -> Any:
    """The store of torchrun's agent, or one that rank 0 serves where the process group will meet later."""
    from lightning_fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
    from torch.distributed import PrefixStore, rendezvous

    environment = TorchElasticEnvironment() if TorchElasticEnvironment.detect() else SLURMEnvironment()
    address = f"tcp://{environment.main_address}:{environment.main_port}"
    store, _, _ = next(iter(rendezvous(address, own_rank(), world_size)))
    store.set_timeout(timedelta(days=30))  # the next job comes when the one before it is done
    return PrefixStore("image_classifier", store)


def lead(store: Any, world_size: int, main: Callable[[], None]) -> None:
    global leader
    leader = Leader(store)
    interrupted = False
    try:
        main()
    except interruption.Interrupted:
        interrupted = True  # as all of them are
        raise
    finally:
        leader.hand_out(NO_MORE)
        followers = [f"rank {rank} is through" for rank in range(1, world_size)]
        with contextlib.suppress(Exception):  # one that failed says nothing
            if not interrupted:
                store.wait(followers, timedelta(seconds=GRACE))


def follow(store: Any, task: Task) -> None:
    status = 0
    for number in itertools.count():
        message = store.get(f"job {number}")
        if message == NO_MORE:
            break
        try:
            perform(task, pickle.loads(message))
        except UserError:
            status = 2  # rank 0 says what it is
    store.set(f"rank {own_rank()} is through", b"")
    sys.exit(status)
