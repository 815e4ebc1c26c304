"""The directory of a run or a sweep: made before anything else happens, for one process alone, and not left behind by
a start that failed."""

import os
import shutil
import sys
from pathlib import Path
from typing import Any

from hydra.core import utils
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from image_classifier.engine import interruption
from image_classifier.engine.disk import LEAST, size
from image_classifier.engine.launch.choices import names_directories
from image_classifier.engine.launch.refusals import work_begins
from image_classifier.engine.overrides import quoted
from image_classifier.engine.runs.files import write_atomically
from image_classifier.engine.secrets import hidden, hidden_override, hidden_overrides
from image_classifier.engine.terminal import say, shell_joined

LOCK = ".lock"
# What lies in a directory before a training, a test or a prediction begins; with anything else in it, it is kept.
BEFORE_THE_START = {".hydra", LOCK, "config.yaml", "tensorboard", "csv", "wandb", "mlruns", "data_summary.json"}
BEFORE_THE_START |= {"multirun.yaml", "job.json", "sweep_summary.csv", "sweep_summary.md", "sweep_summary.png"}


def without_secrets(cfg: Any) -> Any:
    """A configuration of Hydra's, or a list of overrides, in plain containers."""
    settings = OmegaConf.to_container(cfg)
    if isinstance(settings, list):
        return hidden_overrides(settings)
    overrides = settings.get("hydra", {}).get("overrides", {})  # type: ignore[union-attr]
    for kind, texts in overrides.items():
        overrides[kind] = hidden_overrides(texts)
    return hidden(settings)


class OutputDirectory(Callback):
    """Hydra callback; in `configs/hydra/default.yaml`."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        if directory := make_directory(config, "hydra.run.dir"):
            lock(directory)
            interruption.advise(lambda: how_to_go_on(directory))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        typed: Any = OmegaConf.to_container(config.hydra.overrides.task)  # iterated over, it would be resolved
        if secret := next((text for text in typed if hidden_override(text) != text), None):
            key = secret.partition("=")[0]
            refuse(  # Hydra itself writes and prints what is typed, and jobs are told apart by it
                f"expected secrets of a sweep to come from the environment but found {hidden_override(secret)}; "
                f"type '{key}=${{oc.env:VARIABLE}}'"
            )
        if OmegaConf.select(config, "hydra.launcher.n_jobs") == 0:
            refuse("expected hydra.launcher.n_jobs to be a number of processes, or -1 for all, but found 0")
        if directory := make_directory(config, "hydra.sweep.dir"):
            interruption.advise(lambda: f"Go on with: {sweep_again(directory)}")
        if not config.hydra.launcher._target_.endswith(".BasicLauncher"):
            work_begins()  # in other processes: here no job will say so


def save_whole(cfg: Any, filename: str, output_dir: Path) -> None:
    """`hydra.core.utils._save_config` of Hydra 1.4, which would leave half a file when it is killed.

    A run that goes on writes its `.hydra/overrides.yaml` anew, and the next one that goes on reads it: cut off at the
    end of a line, it would silently lack settings.
    """
    path = output_dir / filename
    if path.is_file():
        former.setdefault(path, (path.read_bytes(), saved_configuration(path)))
    shown = without_secrets(cfg)
    if shown != OmegaConf.to_container(cfg):
        cfg = OmegaConf.create(shown)  # it takes longer than all the rest
    write_atomically(path, OmegaConf.to_yaml(cfg))


def saved_configuration(path: Path) -> int | None:
    """When the `config.yaml` beside `.hydra` was written, in nanoseconds: a run that begins writes it anew."""
    saved = path.parents[1] / "config.yaml"
    return saved.stat().st_mtime_ns if saved.is_file() else None


def restore_former() -> None:
    """Give a run its own `.hydra` back when a start in its directory was refused."""
    for path, (content, saved) in former.items():
        if saved_configuration(path) == saved and path.parent.is_dir():
            write_atomically(path, content)


utils._save_config = save_whole

former: dict[Path, tuple[bytes, int | None]] = {}  # what was replaced in `.hydra`, and when config.yaml was written
made: list[Path] = []  # the outermost directory that this process has made, and those in it, up to the run's
locks: list[Any] = []  # held until the process ends


def make_directory(config: DictConfig, key: str) -> Path | None:
    path = OmegaConf.select(config, key, throw_on_resolution_failure=False)
    if path is None:
        return None  # Hydra says what is wrong with it
    reason, directory = "", Path(path).absolute()
    if "${" in path:
        reason = "${ begins an interpolation wherever OmegaConf reads the path again"
    elif not path.strip():
        reason = "it is empty"
    else:
        try:
            new = [parent for parent in (*reversed(directory.parents), directory) if not parent.exists()]
            directory.mkdir(parents=True, exist_ok=True)
            made.extend(new)
            if not os.access(path, os.W_OK | os.X_OK):
                reason = "nothing can be written there"
            elif (free := shutil.disk_usage(directory).free) < LEAST:
                reason = f"{size(free)} of room are left on that disk"
        except OSError as error:
            reason = f"{error.strerror}"
    if reason:
        refuse(f"expected {key} to be a directory to write to but found {path}: {reason}")
    return directory


def lock(directory: Path) -> None:
    """Refuse a directory that another process is running in. The lock dies with this process."""
    from filelock import FileLock, Timeout  # here, for it takes longer to import than all else that help needs of ours

    try:
        locks.append(FileLock(directory / LOCK))
        locks[-1].acquire(timeout=0)
    except Timeout:
        refuse(
            f"expected a directory that no other process is running in but found {directory}; "
            "wait for that run, or choose another: hydra.run.dir=DIR"
        )
    except (OSError, NotImplementedError):  # a file system without locks
        locks.pop()


def refuse(message: str) -> None:
    say(f"error: {message}", sys.stderr)
    sys.exit(2)


def leave() -> None:
    """At the end of a command: give the directory to others."""
    while locks:
        locks.pop().release()
    made.clear()
    former.clear()


def remove_unused() -> None:
    """Remove the directories that this process has made if nothing was trained, tested or predicted in them.

    In a directory that was there, the files of the run before are as they were.
    """
    restore_former()
    if made and made[-1].is_dir() and not any(is_result(path) for path in made[-1].iterdir()):
        shutil.rmtree(made[-1], ignore_errors=True)
        for directory in reversed(made[:-1]):
            try:
                directory.rmdir()
            except OSError:  # not empty: other runs
                break


def is_result(path: Path) -> bool:
    if path.name in BEFORE_THE_START or path.suffix == ".log":
        return False
    return not path.is_dir() or any(is_result(inner) for inner in path.iterdir())


def how_to_go_on(directory: Path) -> str:
    """What to type after an interruption of a single run."""
    if (directory / "checkpoints" / "last.ckpt").is_file():
        own = [quoted("resume", within_cwd(directory)), *names_directories(sys.argv[1:])]
        return f"Go on with: {shell_joined(['python', sys.argv[0], *own])}"
    return f"Start again with: {shell_joined(['python', *sys.argv])}"


def sweep_again(directory: Path) -> str:
    """The command by which a sweep goes on in its directory."""
    own = quoted("hydra.sweep.dir", within_cwd(directory))
    others = [argument for argument in sys.argv if not argument.startswith("hydra.sweep.dir=")]
    return shell_joined(["python", *others, own])


def within_cwd(path: Path) -> str:
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
