"""Folder, CSV file, torch Dataset and Hugging Face: the same pictures, the same datamodule, the same commands."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from image_classifier import pipeline
from image_classifier.data.csv_file import CsvPictures
from image_classifier.data.huggingface import HuggingFace
from image_classifier.data.image_folder import ImageFolder
from image_classifier.data.pictures import PictureDataModule
from image_classifier.data.torch_dataset import TorchDataset
from image_classifier.data.webdataset import WebDataset
from image_classifier.engine.errors import UserError
from image_classifier.engine.images.batches import InMemoryLoader
from picture_sources import CLASSES, Pairs, write_csv, write_folder, write_parquet, write_shards
from tiny import TINY

SETTINGS: dict[str, Any] = {"image_size": 12, "batch_size": 4, "val_size": 0.25, "num_workers": 0}
COUNT = 12  # pictures of each class
SOURCES = ("folder", "csv", "shards", "torch", "huggingface", "streamed")


@pytest.fixture(scope="session")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Hugging Face writes nothing into the home directory, and asks nobody."""
    before = dict(os.environ)
    directory = tmp_path_factory.mktemp("huggingface")
    os.environ |= {"HF_HOME": str(directory), "HF_DATASETS_CACHE": str(directory / "data"), "HF_HUB_OFFLINE": "1"}
    yield directory
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("places")
    folder = write_folder(root / "folder", COUNT)
    return {
        "folder": folder,
        "csv": write_csv(folder / "labels.csv", folder),
        "shards": write_shards(root / "shards", folder, shards=1),
        "new": write_folder(root / "new", 3, seed=7),
    }


@pytest.fixture
def parquet(caches: Path, tmp_path: Path) -> Path:
    pytest.importorskip("datasets", reason="needs the package datasets")
    return write_parquet(tmp_path / "parquet", {"train": COUNT})


@pytest.fixture
def open_source(places: dict[str, Path], request: pytest.FixtureRequest) -> Callable[..., PictureDataModule]:
    def make(source: str, **settings: Any) -> PictureDataModule:
        settings = SETTINGS | settings
        if source == "folder":
            return ImageFolder(root=str(places["folder"]), **settings)
        if source == "csv":
            return CsvPictures(root=str(places["csv"]), **settings)
        if source == "shards":
            return WebDataset(root=str(places["shards"]), **settings)
        if source == "torch":
            return TorchDataset(train=Pairs(COUNT), **settings)
        path = str(request.getfixturevalue("parquet"))
        return HuggingFace(path=path, streaming=source == "streamed", **settings)

    return make


def copied(places: dict[str, Path], copy: str, source: str, root: Path) -> Path:
    """The pictures of `places` again: with the same names, with others, or named by absolute paths in a table."""
    rows = []
    for number, path in enumerate(sorted(places["folder"].rglob("*.png"))):
        name = f"{path.parent.name}/{f'again {number}.png' if copy == 'renamed' else path.name}"
        if copy != "absolute paths":
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, root / name)
        rows.append((path if copy == "absolute paths" else name, path.parent.name))
    root.mkdir(exist_ok=True)
    table = root / "labels.csv"
    table.write_text("path,label\n" + "".join(f"{path},{label}\n" for path, label in rows))
    return table if source == "csv" else places["folder"] if copy == "absolute paths" else root


def set_up(datamodule: PictureDataModule) -> PictureDataModule:
    datamodule.prepare_data()
    datamodule.setup("fit")
    datamodule.setup("test")
    return datamodule


@pytest.mark.parametrize("kept", ["in memory", "not", "cache"])
@pytest.mark.parametrize("source", SOURCES)
def test_all_sources_serve_the_same_pictures(
    open_source: Callable[..., PictureDataModule], source: str, kept: str, tmp_path: Path
) -> None:
    reference = set_up(open_source("folder", in_memory=True, mean="auto", std="auto", channels="auto"))
    cache = {"cache": str(tmp_path / "cache")} if kept == "cache" else {}
    datamodule = set_up(
        open_source(source, in_memory=kept == "in memory", mean="auto", std="auto", channels="auto", **cache)
    )
    assert datamodule.class_names == CLASSES and datamodule.image_shape == reference.image_shape == (3, 12, 12)
    assert datamodule.mean == reference.mean and datamodule.std == reference.std
    for name in ("train_dataloader", "val_dataloader", "test_dataloader"):
        loader, other = getattr(datamodule, name)(), getattr(reference, name)()
        assert isinstance(loader, InMemoryLoader) == (kept != "not") and len(loader) == len(other)
        for (images, labels), (other_images, other_labels) in zip(loader, other, strict=True):
            assert torch.equal(images, other_images) and torch.equal(labels, other_labels)
    summary, expected = datamodule.summary().to_json(), reference.summary().to_json()
    assert summary["classes"] == expected["classes"] and summary["sizes"] == expected["sizes"]


@pytest.mark.parametrize("kept", [{"in_memory": True}, {"in_memory": False}, {"cache": "cache"}])
@pytest.mark.parametrize("copy", ["same names", "renamed", "absolute paths"])
@pytest.mark.parametrize("source", ["folder", "csv"])
def test_pictures_that_were_trained_on_are_known_again_by_their_content(
    open_source: Callable[..., PictureDataModule],
    places: dict[str, Path],
    source: str,
    copy: str,
    kept: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    before = set_up(open_source(source, **kept))
    after = open_source(source)
    after.relocate(str(copied(places, copy, source, tmp_path / "again")), CLASSES, before.state_dict())
    after.prepare_data()
    after.setup("test")
    tested, expected = (sorted(data.readings["test"].digests.tolist()) for data in (after, before))
    assert tested == expected  # the run's own test pictures


@pytest.mark.parametrize("source", SOURCES)
def test_worker_processes_decode_all_sources(open_source: Callable[..., PictureDataModule], source: str) -> None:
    served = []
    for num_workers in (0, 2):
        datamodule = set_up(open_source(source, in_memory=False, num_workers=num_workers))
        served.append(list(datamodule.train_dataloader()))
    for (images, labels), (other_images, other_labels) in zip(*served, strict=True):
        assert torch.equal(images, other_images) and torch.equal(labels, other_labels)


@pytest.mark.parametrize("source", SOURCES)
def test_other_pictures_do_not_go_on_from_a_checkpoint(
    open_source: Callable[..., PictureDataModule], source: str
) -> None:
    state = set_up(open_source(source)).state_dict()
    set_up(open_source(source, in_memory=False, batch_size=3)).load_state_dict(state)
    assert ("contents" in state) == (source in ("folder", "csv"))
    for changed in ({"seed": 1}, {"val_size": 0.5}):
        with pytest.raises(UserError, match="the images and the split"):
            set_up(open_source(source, **changed)).load_state_dict(state)


def test_another_picture_in_a_dataset_is_noticed() -> None:
    datasets = Pairs(COUNT), Pairs(COUNT)
    datasets[1].pairs[0] = (Pairs(COUNT, seed=1).pairs[0][0], 0)
    same, changed = (set_up(TorchDataset(train=dataset, test_size=3, **SETTINGS)) for dataset in datasets)
    with pytest.raises(UserError, match="the images and the split"):
        changed.load_state_dict(same.state_dict())


@pytest.mark.sampled(every=7)
@pytest.mark.parametrize("kept", ["in_memory=true", "in_memory=false", "cache"])
@pytest.mark.parametrize("source", SOURCES)
def test_training_evaluation_and_prediction_by_the_commands(
    compose_config: Callable[..., Any],
    places: dict[str, Path],
    tmp_path: Path,
    request: pytest.FixtureRequest,
    source: str,
    kept: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    where = {
        "folder": ["data=image_folder", f"data.root={places['folder']}"],
        "csv": ["data=csv", f"data.root={places['csv']}"],
        "shards": ["data=webdataset", f"data.root={places['shards']}"],
        "torch": ["data=torch_dataset", f"data.train={{_target_:picture_sources.Pairs,count:{COUNT}}}"],
    }
    if source not in where:
        path = request.getfixturevalue("parquet")
        where[source] = ["data=huggingface", f"data.path={path}", f"data.streaming={source == 'streamed'}".lower()]
    trusted = ["picture_sources.Pairs"] if source == "torch" else []
    overrides = [override for override in TINY if not override.startswith("data")]
    settings = [*overrides, *where[source], "data.image_size=12", "data.batch_size=8", "logger=none", "data.fit=pad"]
    settings += [
        f"data.cache={tmp_path}/cache" if kept == "cache" else f"data.{kept}",
        "data.num_workers=0",
        "trainer.max_epochs=12",
        "monitor.metric=val/loss",
        "confusion_matrix=none",
        "data.channels=auto",
        "data.mean=auto",
        "data.std=auto",
    ]
    cfg = compose_config(*settings)
    cfg.trusted = trusted
    pipeline.train(cfg)
    checkpoint = f"ckpt_path={tmp_path}/run/checkpoints/best.ckpt"
    assert (tmp_path / "run" / "data_summary.json").is_file()
    trained = json.loads((tmp_path / "run" / "metrics.json").read_text())
    if kept == "cache":
        assert f"decoded, 0 of before, in {tmp_path}/cache" in capsys.readouterr().out
    typed = [f"+data.cache={tmp_path}/cache"] if kept == "cache" else []
    for cache in ([], typed):
        cfg = compose_config(checkpoint, f"paths.run_dir={tmp_path}/eval", *cache, config_name="eval")
        cfg.trusted = trusted
        assert pipeline.evaluate(cfg) == trained["test/acc"] == 1.0
        assert ("Pictures: 0 decoded, " in capsys.readouterr().out) == bool(cache)
    assert json.loads((tmp_path / "eval" / "metrics.json").read_text())["test/loss"] == pytest.approx(
        trained["test/loss"]
    )
    output = f"output={tmp_path}/predictions.csv"
    cfg = compose_config(checkpoint, f"input={places['new']}", output, config_name="predict")
    cfg.trusted = trusted
    pipeline.predict(cfg)
    rows = [row.split(",")[:2] for row in (tmp_path / "predictions.csv").read_text().splitlines()[1:]]
    assert [Path(file).parent.name for file, _ in rows] == [predicted for _, predicted in rows] and len(rows) == 9


def test_a_dataset_that_nobody_trusts_is_not_called_for_a_checkpoint(
    compose_config: Callable[..., Any], tmp_path: Path
) -> None:
    overrides = [override for override in TINY if not override.startswith("data")]
    train = f"data.train={{_target_:picture_sources.Pairs,count:{COUNT}}}"
    settings = ["data=torch_dataset", train, "data.image_size=12", "logger=none", "trainer.max_epochs=1"]
    with pytest.raises(UserError, match=r"known package but found picture_sources\.Pairs; if you trust it"):
        pipeline.train(compose_config(*overrides, *settings))
    cfg = compose_config(*overrides, *settings)
    cfg.trusted = ["picture_sources.*"]
    pipeline.train(cfg)
    checkpoint = f"ckpt_path={tmp_path}/run/checkpoints/best.ckpt"
    with pytest.raises(UserError, match=r"known networks.* but found 'picture_sources\.Pairs', which was not"):
        pipeline.evaluate(compose_config(checkpoint, config_name="eval"))


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures of which three cannot be decoded, so that each of two processes meets some."""
    folder = write_folder(tmp_path_factory.mktemp("damaged"), COUNT)
    for index, name in enumerate(("blue/001.png", "green/014.png", "red/031.png")):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes((b"", b"no picture", content[: len(content) // 2])[index])
    return folder


@pytest.mark.slow
@pytest.mark.sampled(every=6)
@pytest.mark.parametrize("kept", ["data.in_memory=true", "data.in_memory=false", "cache"])
@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_bad_pictures_under_two_processes(
    run_script: Callable[..., Any], damaged: Path, tmp_path: Path, kept: str, on_error: str
) -> None:
    """Each is named once, in the one line of the command, or left out of the counts of both processes together."""
    overrides = [override for override in TINY if not override.startswith("data")]
    settings = ["data=image_folder", f"data.root={damaged}", "data.image_size=12", "data.batch_size=4", "logger=none"]
    settings += [f"data.cache={tmp_path}/cache" if kept == "cache" else kept, f"data.on_error={on_error}"]
    settings += ["data.num_workers=0", "trainer.devices=2", "trainer.max_epochs=1", f"hydra.run.dir={tmp_path}/run"]
    result = run_script("train.py", *overrides, *settings)
    told = result.stderr if on_error == "raise" else result.stdout
    assert "Traceback" not in result.stderr
    for name in ("blue/001.png", "green/014.png", "red/031.png"):
        assert told.count(name) == 1, result.stdout + result.stderr
    if on_error == "raise":
        assert result.returncode == 2 and result.stderr.count("error: expected pictures in") == 1
        assert "but found 3 that cannot be decoded" in result.stderr
        assert not (tmp_path / "run" / "metrics.json").exists()
        return
    assert result.returncode == 0, result.stderr
    summary = json.loads((tmp_path / "run" / "data_summary.json").read_text())
    tested = sum(counts["test"] for counts in summary["classes"].values())
    counts = (tmp_path / "run" / "confusion_matrix" / "test.csv").read_text().splitlines()[1:]
    assert sum(int(cell) for row in counts for cell in row.split(",")[1:]) == tested
    assert sum(sum(row.values()) for row in summary["classes"].values()) == 3 * COUNT - 3
    if kept == "cache":
        again = run_script("train.py", *overrides, *settings)
        assert again.returncode == 0, again.stderr
        assert "Pictures: 0 decoded" in again.stdout and again.stdout.count("Pictures: 0 decoded") == 2
