"""One's own pictures: layouts, splits, in memory and from the disk, and what is told about bad ones."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from image_classifier import pipeline
from image_classifier.data.batches import InMemoryLoader
from image_classifier.data.image_folder import FileLoader, ImageFolder
from image_classifier.errors import UserError
from tiny import TINY

COLOURS = {"blue": (20, 20, 220), "green": (20, 220, 20), "red": (220, 20, 20)}


def draw_squares(directory: Path, count: int, seed: int = 0, names: tuple[str, ...] = tuple(COLOURS)) -> Path:
    """Write `count` noisy pictures of a coloured square for each class to `<directory>/<colour>`."""
    random = np.random.default_rng(seed)
    for name in names:
        (directory / name).mkdir(parents=True)
        for index in range(count):
            pixels = random.integers(60, size=(20, 24, 3), dtype=np.uint8)
            top, left = random.integers(4, 8, size=2)
            pixels[top : top + 10, left : left + 10] = COLOURS[name]
            Image.fromarray(pixels).save(directory / name / f"{index:03}.png")
    return directory


def make_folder(root: Path, **settings: Any) -> ImageFolder:
    datamodule = ImageFolder(root=str(root), **{"image_size": 16, "batch_size": 4, "val_size": 0.25} | settings)
    datamodule.prepare_data()
    datamodule.setup("fit")
    datamodule.setup("test")
    return datamodule


def counts(labels: torch.Tensor) -> list[int]:
    return torch.bincount(labels).tolist()


def test_folders_of_classes_only_are_split_in_three(tmp_path: Path) -> None:
    datamodule = make_folder(draw_squares(tmp_path / "pictures", 20))
    assert datamodule.class_names == ("blue", "green", "red") and datamodule.image_shape == (3, 16, 16)
    labels = datamodule.train_images.labels
    assert counts(labels[datamodule.train_indices]) == [12] * 3
    assert counts(labels[datamodule.val_indices]) == [4] * 3
    assert counts(datamodule.test_images.labels) == [4] * 3
    everything = torch.cat([datamodule.train_images.images, datamodule.test_images.images]).flatten(1)
    assert len(everything.unique(dim=0)) == 60  # no picture is in two parts
    for label, channel in enumerate((2, 1, 0)):  # the class named blue is blue
        assert datamodule.train_images.images[labels == label][:, channel, 8, 8].float().mean() > 180


def test_seed_changes_the_validation_pictures_and_not_the_test(tmp_path: Path) -> None:
    root = draw_squares(tmp_path / "pictures", 20)
    one, two = make_folder(root, seed=1), make_folder(root, seed=2)
    assert torch.equal(one.test_images.images, two.test_images.images)
    assert not torch.equal(one.val_indices, two.val_indices)


@pytest.mark.parametrize("parts", [("train",), ("train", "val"), ("train", "test"), ("train", "val", "test")])
def test_parts_with_folders_of_their_own_keep_their_pictures(tmp_path: Path, parts: tuple[str, ...]) -> None:
    sizes = {"train": 20, "val": 3, "test": 2}
    for seed, part in enumerate(parts):
        draw_squares(tmp_path / part, sizes[part], seed)
    datamodule = make_folder(tmp_path)
    test = 2 if "test" in parts else 4
    rest = 20 if "test" in parts else 16
    val = 3 if "val" in parts else rest // 4
    train = rest if "val" in parts else rest - val
    labels = datamodule.train_images.labels
    assert counts(labels[datamodule.train_indices]) == [train] * 3
    assert counts(labels[datamodule.val_indices]) == [val] * 3
    assert counts(datamodule.test_images.labels) == [test] * 3
    if "val" in parts:
        first = sorted((tmp_path / "val" / "blue").iterdir())[0]
        reference = torch.from_numpy(np.array(Image.open(first).crop((2, 0, 22, 20)).resize((16, 16)))).permute(2, 0, 1)
        served = datamodule.train_images.images[datamodule.val_indices[0]]
        assert (served.float() - reference.float()).abs().mean() < 8  # another resampling of the same picture


@pytest.mark.parametrize("num_workers", [0, 1])
def test_pictures_from_the_disk_are_those_in_memory(tmp_path: Path, num_workers: int) -> None:
    root = draw_squares(tmp_path / "pictures", 7)
    memory = make_folder(root, in_memory=True)
    disk = make_folder(root, in_memory=False, num_workers=num_workers)
    for name in ("train_dataloader", "val_dataloader", "test_dataloader"):
        expected, served = getattr(memory, name)(), getattr(disk, name)()
        assert isinstance(expected, InMemoryLoader) and isinstance(served, FileLoader)
        assert len(expected) == len(served)
        for (images, labels), (other_images, other_labels) in zip(expected, served, strict=True):
            assert torch.equal(images, other_images) and torch.equal(labels, other_labels)
    for one, other in zip(memory.first_training_images(5), disk.first_training_images(5), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_loader_from_the_disk_is_restored_inside_an_epoch(tmp_path: Path, num_workers: int) -> None:
    datamodule = make_folder(draw_squares(tmp_path / "pictures", 7), in_memory=False, num_workers=num_workers)
    whole = [labels.tolist() for _, labels in datamodule.train_dataloader()]
    first, rest = datamodule.train_dataloader(), datamodule.train_dataloader()
    assert isinstance(first, FileLoader) and isinstance(rest, FileLoader)
    iterator = iter(first)
    next(iterator), next(iterator)
    rest.load_state_dict(first.state_dict())
    assert [labels.tolist() for _, labels in rest] == whole[2:]


@pytest.mark.parametrize(("free", "expected"), [(10**9, InMemoryLoader), (1000, FileLoader)])
def test_free_memory_decides(tmp_path: Path, free: int, expected: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("image_classifier.data.image_folder.free_memory", lambda: free)
    assert isinstance(make_folder(draw_squares(tmp_path / "pictures", 4)).train_dataloader(), expected)


def no_directory(root: Path) -> None:
    pass


def no_classes(root: Path) -> None:
    root.mkdir()


def one_class(root: Path) -> None:
    draw_squares(root, 2, names=("red",))


def empty_class(root: Path) -> None:
    draw_squares(root, 2)
    (root / "yellow").mkdir()


def corrupt_file(root: Path) -> None:
    draw_squares(root, 8)
    (root / "red" / "000.png").write_bytes(b"no picture")


def other_test_classes(root: Path) -> None:
    draw_squares(root / "train", 2)
    draw_squares(root / "test", 2, names=("red", "blue"))


@pytest.mark.parametrize(
    ("lay_out", "message"),
    [
        (no_directory, r"found none at .*pictures; name it: data\.root=DIR"),
        (no_classes, r"two or more classes in .*pictures but found none; lay the pictures out as"),
        (one_class, r"two or more classes in .*pictures but found only red"),
        (empty_class, r"expected pictures in .*yellow but found none"),
        (corrupt_file, r"expected a picture but found .*red/000\.png"),
        (other_test_classes, r"class folders blue, green, red in .*test as in training but found blue, red"),
    ],
)
def test_bad_folders_are_told(tmp_path: Path, lay_out: Callable[[Path], None], message: str) -> None:
    lay_out(tmp_path / "pictures")
    with pytest.raises(UserError, match=message):
        make_folder(tmp_path / "pictures")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_corrupt_file_on_the_disk_is_told_in_one_line(tmp_path: Path, num_workers: int) -> None:
    corrupt_file(tmp_path / "pictures")
    datamodule = make_folder(tmp_path / "pictures", in_memory=False, num_workers=num_workers, batch_size=100)
    with pytest.raises(UserError, match=r"^expected a picture but found [^\n]*000\.png[^\n]*$"):
        for loader in (datamodule.train_dataloader(), datamodule.val_dataloader(), datamodule.test_dataloader()):
            list(loader)


def test_two_channels_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"channels to be 1 .* or 3"):
        ImageFolder(root=str(tmp_path), channels=2, batch_size=1, val_size=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("in_memory", ["true", "false"])
def test_coloured_squares_are_learnt_and_evaluated(
    compose_config: Callable[..., Any], tmp_path: Path, in_memory: str
) -> None:
    draw_squares(tmp_path / "pictures", 20)
    overrides = [override for override in TINY if not override.startswith("data")]
    cfg = compose_config(
        *overrides,
        "data=image_folder",
        f"data.root={tmp_path}/pictures",
        "data.image_size=12",
        "data.batch_size=8",
        f"data.in_memory={in_memory}",
        "data.num_workers=0",
        "trainer.max_epochs=5",
        "confusion_matrix=none",
        "callbacks.sample_images=null",
        "logger=none",
    )
    assert pipeline.train(cfg) == 1.0
    counts = (tmp_path / "run" / "confusion_matrix" / "test.csv").read_text().splitlines()[1:]
    assert counts == ["blue,4,0,0", "green,0,4,0", "red,0,0,4"]
    (tmp_path / "pictures").rename(tmp_path / "moved")
    cfg = compose_config(
        f"ckpt_path={tmp_path}/run/checkpoints/best.ckpt",
        f"data.root={tmp_path}/moved",
        f"paths.run_dir={tmp_path}/eval",
        config_name="eval",
    )
    assert pipeline.evaluate(cfg) == 1.0
