"""Configurations made from a template are those that Hydra composes, and so are the errors."""

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hydra import initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from image_classifier.engine.launch import templates
from image_classifier.engine.project import CONFIG_DIR

FROM_A_TEMPLATE = [
    (),
    ("seed=3",),
    ("seed=4", "model=mlp"),
    ("model=mlp", "seed=5", "model.optimizer.lr=0.1"),
    ("model.optimizer.lr=1e-3", "model=mlp"),  # the group comes second
    ("model.optimizer.lr=0.2", "model/optimizer=sgd", "model.optimizer.weight_decay=0"),
    ("experiment=best_cpu", "trainer.max_epochs=3"),
    ("confusion_matrix=all", "confusion_matrix.normalize=pred", "test=false"),
    ("seed='7'", "ckpt_path=null", "data.root='a b'", "data.root2=x")[:3],
    ("data.root=${paths.root_dir}/x", "monitor.metric=val/loss", "data.batch_size=???"),
    ("trainer.max_epochs=2", "+trainer.max_steps=5", "++trainer.devices=2", "~callbacks.report"),
    ("model.net.channels=[1,2]", "seed=8", "+metrics.top3={_target_: a.B, top_k: 3}"),
    ("hydra.job.chdir=true", "seed=9"),
    ("seed=true", "trainer.precision=16", "model.channels_last=0"),
    ("seed=nan",),
    ("callbacks.report=null", "data.mix=null", "seed=2"),  # they take the place of several settings
    ("data.augmentation.flip=0.25", "data.augmentation.erase=1", "callbacks.early_stopping.patience=1"),
]
BY_HYDRA = [
    ("seed=1", "seed=2"),
    ("model.net={_target_: a.B}", "model.net._target_=c.D"),
    ("model.optimizer.lr=0.1", "~model.optimizer"),
    ("seed=1", "~trainer.max_epochs=6"),
]
REFUSED = [
    ("data.fold=1", "+data.fold=2"),
    ("trainer.max_epoch=1",),
    ("seed=1", "modell.lr=2"),
    ("model=none_such", "seed=1"),
    ("+seed=1",),
    ("trainer.max_epochs=1,2",),
    ("seed=1", "+trainer.max_epochs=3"),
    ("~none.such", "seed=1"),
    ("model@other=mlp", "seed=1"),
]


@pytest.fixture(scope="module")
def loader() -> Iterator[ConfigLoaderImpl]:
    with initialize_config_dir(CONFIG_DIR):
        yield GlobalHydra.instance().config_loader()


@pytest.fixture(scope="module")
def master(loader: ConfigLoaderImpl) -> DictConfig:
    return loader.load_configuration("train", ["hydra.sweep.dir=there"], RunMode.MULTIRUN, from_shell=False)


def settings(cfg: DictConfig) -> str:
    return OmegaConf.to_yaml(cfg)  # in which 1, 1.0 and true differ, and nothing is resolved


@pytest.mark.parametrize("overrides", [*FROM_A_TEMPLATE, *BY_HYDRA], ids=" ".join)
def test_jobs_are_those_of_hydra(loader: ConfigLoaderImpl, master: DictConfig, overrides: tuple[str, ...]) -> None:
    if overrides in FROM_A_TEMPLATE:  # another job has left its values
        loader.load_sweep_config(master, [*overrides[1:], "data.val_size=77"])
    made = loader.load_sweep_config(master, list(overrides))
    expected = templates.by_hydra(loader, master, list(overrides))
    assert settings(made) == settings(expected)
    assert OmegaConf.is_struct(made) == OmegaConf.is_struct(expected)
    assert OmegaConf.get_cache(made) == OmegaConf.get_cache(master)


@pytest.mark.parametrize("overrides", REFUSED, ids=" ".join)
def test_mistakes_are_told_as_by_hydra(
    loader: ConfigLoaderImpl, master: DictConfig, overrides: tuple[str, ...]
) -> None:
    with pytest.raises(Exception) as expected:
        templates.by_hydra(loader, master, list(overrides))
    with pytest.raises(type(expected.value)) as found:
        loader.load_sweep_config(master, list(overrides))
    assert str(found.value) == str(expected.value)


def test_a_template_is_composed_once_and_never_changed(
    loader: ConfigLoaderImpl, master: DictConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    templates.templates.clear()
    composed = []
    by_hydra = templates.by_hydra
    monkeypatch.setattr(templates, "by_hydra", lambda *arguments: composed.append(1) or by_hydra(*arguments))
    for rate in range(1, 6):
        job = loader.load_sweep_config(master, ["model=mlp", f"model.optimizer.lr={rate}", f"seed={rate}"])
        job.trainer.max_epochs = 77
        assert (job.model.optimizer.lr, job.seed) == (rate, rate)
        assert job.hydra.overrides.task == ["model=mlp", f"model.optimizer.lr={rate}", f"seed={rate}"]
    assert len(composed) == 1
    assert loader.load_sweep_config(master, ["model=mlp", "seed=1"]).trainer.max_epochs == 6
    assert loader.load_sweep_config(master, ["model=cnn", "seed=1"]).model.net.hidden_size == 128
    assert len(composed) == 2
    monkeypatch.setattr(templates, "KEPT", 3)
    for number in range(5):
        loader.load_sweep_config(master, [f"+metrics.m{number}={{_target_: a.B}}"])
    assert len(templates.templates) == 3


def edit_setting(configs: Path) -> None:
    file = configs / "trainer" / "default.yaml"
    file.write_text(file.read_text().replace("max_epochs: 6", "max_epochs: 7"))  # of the same size


def add_setting(configs: Path) -> None:
    with (configs / "train.yaml").open("a") as file:
        file.write("added: 1\n")


def add_file(configs: Path) -> None:
    (configs / "local").mkdir(exist_ok=True)
    (configs / "local" / "default.yaml").write_text("# @package _global_\ntop_k: 3\n")


def remove_file(configs: Path) -> None:
    (configs / "model" / "mlp.yaml").unlink()
    shutil.copy(configs / "model" / "cnn.yaml", configs / "model" / "mlp.yaml")


@pytest.mark.parametrize("change", [edit_setting, add_setting, add_file, remove_file])
def test_files_that_are_edited_while_a_sweep_runs_are_read_again(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    configs = tmp_path / "configs"
    shutil.copytree(CONFIG_DIR, configs)
    loader = ConfigLoaderImpl(create_config_search_path(str(configs)))
    master = loader.load_configuration("train", [], RunMode.MULTIRUN, from_shell=False)
    former = settings(loader.load_sweep_config(master, ["model=mlp", "seed=2"]))
    change(configs)
    made = settings(loader.load_sweep_config(master, ["model=mlp", "seed=2"]))
    assert made == settings(templates.by_hydra(loader, master, ["model=mlp", "seed=2"]))
    assert made != former


@pytest.mark.parametrize("where", ["of the sweep", "of the job"])
def test_variables_are_copied_as_they_are_now(
    loader: ConfigLoaderImpl, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    copied = "hydra.job.env_copy=[MY_VARIABLE]"
    monkeypatch.setenv("MY_VARIABLE", "0")
    typed = [copied] if where == "of the sweep" else []
    master = loader.load_configuration("train", typed, RunMode.MULTIRUN, from_shell=False)
    for value in ("1", "2", "3"):
        monkeypatch.setenv("MY_VARIABLE", value)
        job = loader.load_sweep_config(master, ["seed=2", *([] if typed else [copied])])
        assert dict(job.hydra.job.env_set) == {"MY_VARIABLE": value}


def test_the_working_directory_is_that_of_now(
    loader: ConfigLoaderImpl, master: DictConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in (Path.cwd(), tmp_path):
        monkeypatch.chdir(place)
        assert loader.load_sweep_config(master, ["seed=2"]).hydra.runtime.cwd == str(place)


def test_looking_at_all_files_takes_a_moment() -> None:
    templates.stamps([f"file://{CONFIG_DIR}"])
    start = time.perf_counter()
    found = templates.stamps([f"file://{CONFIG_DIR}", "pkg://hydra.conf", "file:///none/such"])
    assert len(found) == sum(1 for _ in Path(CONFIG_DIR).rglob("*.yaml"))
    assert time.perf_counter() - start < 0.05  # it takes 0.6 ms
