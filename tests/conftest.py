"""Fixtures that run the pipeline the way the commands do, in this process: a new one costs ten seconds of imports."""

import atexit
import gc
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from system_packages import NEEDS, why_not

import forked
from given_logits import run_test  # noqa: F401  # a fixture
from image_classifier import pipeline
from image_classifier.engine.launch.checks import check_config
from image_classifier.engine.launch.configuration import register_resolvers  # noqa: F401  # its import registers them
from image_classifier.engine.launch.templates import from_template
from image_classifier.engine.project import CONFIG_DIR, PROJECT_ROOT
from tiny import TINY


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"needs(name): skipped where the system has no {', '.join(NEEDS)}; fails in CI")


@pytest.hookimpl(tryfirst=True)  # before those that are not asked for are left out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    counts: Counter[str] = Counter()
    for item in items:
        if marker := item.get_closest_marker("sampled"):
            test = item.nodeid.partition("[")[0]
            if counts[test] % marker.kwargs["every"]:
                item.add_marker(pytest.mark.thorough)
            counts[test] += 1
    longest = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in longest)  # first, so that no process waits for another at the end


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("needs"):
        if reason := why_not(*marker.args):
            (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)


@pytest.fixture(scope="session", autouse=True)
def lean_process(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["TRACKIO_DIR"] = str(tmp_path_factory.mktemp("trackio"))  # which its first import reads
    torch.set_num_threads(1)  # the tensors of tests are too small to share
    gc.freeze()  # as the commands do
    atexit.register(gc.unfreeze)
    # A shell that starts the tests in the background has them ignore Ctrl-C, and the processes that they start too.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def outside_of_hydra() -> Iterator[None]:
    """Forget the configuration of a command that a test has run in this process."""
    yield
    HydraConfig.instance().cfg = None


@pytest.fixture
def compose_config(tmp_path: Path) -> Callable[..., DictConfig]:
    """Compose and check a configuration whose run directory is `tmp_path / "run"`."""

    def make(*overrides: str, config_name: str = "train") -> DictConfig:
        chosen = [f"paths.run_dir={tmp_path / 'run'}", *overrides]
        with initialize_config_dir(CONFIG_DIR):
            loader = GlobalHydra.instance().config_loader()
            cfg = from_template(loader, config_name, chosen, lambda shape: compose(config_name, list(shape)))
            cfg = compose(config_name, chosen) if cfg is None else cfg
        check_config(cfg)
        return cfg

    return make


@pytest.fixture
def tiny_overrides() -> tuple[str, ...]:
    """Overrides of the runs that `train` makes; a test of the drawings brings its own."""
    return TINY


@pytest.fixture
def train(compose_config: Callable[..., DictConfig], tiny_overrides: tuple[str, ...]) -> Callable[..., Path]:
    """Train a tiny network on synthetic images with the given overrides; returns the run directory."""

    def run(*overrides: str) -> Path:
        cfg = compose_config(*tiny_overrides, *overrides)
        OmegaConf.resolve(cfg)  # as the command does
        pipeline.train(cfg)
        return Path(cfg.paths.run_dir)

    return run


@pytest.fixture(scope="session")
def kept_runs() -> dict[tuple[str, ...], Path]:
    return {}


@pytest.fixture
def trained(
    train: Callable[..., Path],
    tiny_overrides: tuple[str, ...],
    kept_runs: dict[tuple[str, ...], Path],
    tmp_path_factory: pytest.TempPathFactory,
    tmp_path: Path,
) -> Callable[..., Path]:
    """Like `train`, but what another test has trained with the same overrides is copied to `tmp_path / "run"`."""

    def copy(*overrides: str) -> Path:
        key = (*tiny_overrides, *overrides)
        if key not in kept_runs:
            kept_runs[key] = train(*overrides, f"paths.run_dir={tmp_path_factory.mktemp('trained')}/run")
        return shutil.copytree(kept_runs[key], tmp_path / "run")

    return copy


@pytest.fixture
def run_script() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a script of the project in a process of its own."""

    def run(script: str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return forked.run([sys.executable, PROJECT_ROOT / script, *arguments], capture_output=True, **options)

    return run
