"""One's own pictures: layouts, splits, in memory and from the disk, and what is told about bad ones."""

import shlex
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import forked
from image_classifier import pipeline
from image_classifier.data.image_folder import ImageFolder
from image_classifier.data.pictures import FileLoader
from image_classifier.engine.errors import UserError
from image_classifier.engine.images.batches import InMemoryLoader
from image_classifier.engine.images.picture_sets import former_keys
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
    monkeypatch.setattr("image_classifier.data.pictures.free_memory", lambda: free)
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


def unknown_test_class(root: Path) -> None:
    draw_squares(root / "train", 2, names=("red", "blue"))
    draw_squares(root / "test", 2)


def empty_part(root: Path) -> None:
    draw_squares(root / "train", 2)
    (root / "test" / "red").mkdir(parents=True)


def parts_under_other_names(root: Path) -> None:
    draw_squares(root / "Training", 2)
    draw_squares(root / "validation", 2)


def pictures_without_folders(root: Path) -> None:
    draw_squares(root, 2, names=("red",))
    for path in (root / "red").iterdir():
        path.rename(root / path.name)
    (root / "red").rmdir()


@pytest.mark.parametrize(
    ("lay_out", "message"),
    [
        (no_directory, r"found none at .*pictures; name it: data\.root=DIR"),
        (no_classes, r"two or more classes in .*pictures but found none; lay the pictures out as"),
        (one_class, r"two or more classes in .*pictures but found only red"),
        (empty_class, r"expected pictures in .*yellow but found none"),
        (corrupt_file, r"pictures in .* but found 1 that cannot be decoded: red/000\.png \(cannot identify .*; repair"),
        (unknown_test_class, r"only folders of the classes blue, red in .*test as in training but found green; rename"),
        (empty_part, r"pictures of the classes blue, green, red in .*test but found none; lay them out as"),
        (parts_under_other_names, r"found Training, validation; the parts of the data are called train, val, test"),
        (pictures_without_folders, r"two or more classes in .*pictures but found none"),
    ],
)
def test_bad_folders_are_told(tmp_path: Path, lay_out: Callable[[Path], None], message: str) -> None:
    lay_out(tmp_path / "pictures")
    with pytest.raises(UserError, match=message) as told:
        make_folder(tmp_path / "pictures")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_file_that_is_damaged_during_the_training_is_told_in_one_line(tmp_path: Path, num_workers: int) -> None:
    root = draw_squares(tmp_path / "pictures", 8)
    datamodule = make_folder(root, in_memory=False, num_workers=num_workers, batch_size=100)
    for path in root.rglob("000.png"):
        path.write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"^expected a picture but found [^\n]*000\.png[^\n]*$"):
        for loader in (datamodule.train_dataloader(), datamodule.val_dataloader(), datamodule.test_dataloader()):
            list(loader)


def test_two_channels_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"channels to be 1 .*, 3 .* or auto"):
        ImageFolder(root=str(tmp_path), channels=2, batch_size=1, val_size=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("part", ["val", "test"])
def test_class_that_is_missing_from_a_part_is_an_empty_row(
    tmp_path: Path, part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    draw_squares(tmp_path / "train", 8)
    draw_squares(tmp_path / part, 2, names=("red",))
    (tmp_path / part / "blue").mkdir()
    datamodule = make_folder(tmp_path)
    labels = datamodule.test_images.labels
    if part == "val":
        labels = datamodule.train_images.labels[datamodule.val_indices]
    assert labels.tolist() == [2, 2]
    told = {"val": "validation", "test": "test"}[part]
    assert f"Pictures: none of blue, green for {told} in {tmp_path}\n" in capsys.readouterr().out


def test_rare_classes_that_a_split_leaves_without_pictures_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = draw_squares(tmp_path / "pictures", 1)
    draw_squares(tmp_path / "more", 9, names=("red",)).joinpath("red").rename(root / "red" / "more")
    datamodule = make_folder(root, test_size=2, val_size=2)
    told = capsys.readouterr().out
    parts = {
        "test": datamodule.test_images.labels,
        "training": datamodule.train_images.labels[datamodule.train_indices],
        "validation": datamodule.train_images.labels[datamodule.val_indices],
    }
    for part, labels in parts.items():
        missing = [name for label, name in enumerate(datamodule.class_names) if label not in labels]
        assert (f"Pictures: none of {', '.join(missing)} for {part} in {root}\n" in told) == bool(missing)
    assert "for validation" in told


def test_what_is_found_and_skipped_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw_squares(tmp_path / "train", 4)
    draw_squares(tmp_path / "test", 1)
    for name in ("train/red/a.svg", "train/red/b.svg", "test/blue/notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "valid").mkdir()
    datamodule = make_folder(tmp_path)
    datamodule.prepare_data()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Pictures:")]
    assert lines == [f"Pictures: 15 in 3 classes in {tmp_path}; skipped 4 files (2 .svg, 1 .txt, 1 valid beside train)"]


@pytest.mark.parametrize("damaged", [False, True])
def test_folds_of_pictures(tmp_path: Path, damaged: bool) -> None:
    root = draw_squares(tmp_path / "pictures", 10)
    if damaged:
        (root / "red" / "004.png").write_bytes(b"no picture")
    held_out = []
    for fold in range(4):
        datamodule = make_folder(root, folds=4, fold=fold, test_size=6, on_error="skip")
        assert len(datamodule.test_images.labels) + len(datamodule.train_images.labels) == 30 - damaged
        held_out.append(datamodule.val_indices)
    assert torch.equal(torch.cat(held_out).sort().values, torch.arange(len(datamodule.train_images.labels)))
    draw_squares(tmp_path / "parts" / "train", 10)
    draw_squares(tmp_path / "parts" / "val", 2)
    with pytest.raises(UserError, match=r"no part for validation in .*parts, because data\.folds=4 .* but found one"):
        make_folder(tmp_path / "parts", folds=4)


def test_pictures_in_linked_folders_are_used(tmp_path: Path) -> None:
    elsewhere = draw_squares(tmp_path / "elsewhere", 5)
    (root := tmp_path / "pictures").mkdir()
    for name in COLOURS:
        (root / name).mkdir()
        (root / name / "linked").symlink_to(elsewhere / name)
    assert counts(make_folder(root, test_size=3).train_images.labels) == [4] * 3
    (tmp_path / "classes").mkdir()
    for name in COLOURS:
        (tmp_path / "classes" / name).symlink_to(elsewhere / name)
    assert counts(make_folder(tmp_path / "classes", test_size=3).train_images.labels) == [4] * 3


def test_numbered_classes_come_in_natural_order(tmp_path: Path) -> None:
    names = tuple(str(number) for number in range(12, 0, -1))
    root = tmp_path / "pictures"
    for name in names:
        (root / name).mkdir(parents=True)
        Image.new("L", (8, 8), 20 * int(name)).save(root / name / "a.png")
        Image.new("L", (8, 8), 20 * int(name)).save(root / name / "b.png")
    datamodule = make_folder(root, test_size=12, val_size=1, channels=1)
    assert datamodule.class_names == names[::-1]
    assert datamodule.test_images.images[:, 0, 0, 0].tolist() == [20 * number for number in range(1, 13)]


@pytest.mark.parametrize("class_names", [["red", "blue"], ["blue", "red"], None])
def test_order_of_the_classes_can_be_chosen(tmp_path: Path, class_names: list[str] | None) -> None:
    root = draw_squares(tmp_path / "pictures", 8, names=("blue", "red"))
    datamodule = make_folder(root, class_names=class_names)
    assert list(datamodule.class_names) == (class_names or ["blue", "red"])
    images, labels = datamodule.test_images
    for label, name in enumerate(datamodule.class_names):
        strongest = images[labels == label][:, :, 8, 8].float().mean(0).argmax()
        assert strongest == {"red": 0, "blue": 2}[name]


@pytest.mark.parametrize(
    "class_names", [["red"], ["red", "green"], ["red", "blue", "green"], ["red", "blue", "blue"], ["Red", "blue"], []]
)
def test_class_names_that_are_not_the_folders_are_told(tmp_path: Path, class_names: list[str]) -> None:
    root = draw_squares(tmp_path / "pictures", 8, names=("blue", "red"))
    with pytest.raises(UserError, match=r"^expected data\.class_names .* 'data\.class_names=\[\"blue\", \"red\"\]'$"):
        make_folder(root, class_names=class_names)


def test_order_that_is_told_can_be_typed(tmp_path: Path, compose_config: Callable[..., Any]) -> None:
    names = ("it's", "null", "true", "two words", "x,y")
    root = draw_squares(tmp_path / "pictures", 4)
    for name in names:
        shutil.copytree(root / "red", root / name)
    for name in COLOURS:
        shutil.rmtree(root / name)
    with pytest.raises(UserError) as told:
        make_folder(root, class_names=["true"])
    typed = shlex.split(str(told.value).partition("for example ")[2])
    cfg = compose_config("data=image_folder", f"data.root={root}", *typed)
    assert make_folder(root, class_names=cfg.data.class_names).class_names == names


def test_numbers_are_class_names_too(tmp_path: Path) -> None:
    for name in ("0", "1"):
        draw_squares(tmp_path, 4, names=("red",))
        (tmp_path / "red").rename(tmp_path / name)
    assert make_folder(tmp_path, class_names=[1, 0]).class_names == ("1", "0")


def test_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw_squares(tmp_path / "pictures", 4)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert make_folder(Path("~/pictures")).root == tmp_path / "pictures"
    datamodule = ImageFolder(root="elsewhere", batch_size=1, val_size=1)
    datamodule.relocate("~/pictures", sorted(COLOURS), {})
    assert datamodule.root == tmp_path / "pictures"


def trained(root: Path, **settings: Any) -> tuple[Any, dict[str, Any]]:
    datamodule = make_folder(root, **settings)
    return datamodule, datamodule.state_dict()


def on_other_data(root: Path, state: dict[str, Any], class_names: tuple[str, ...] = tuple(COLOURS)) -> ImageFolder:
    datamodule = ImageFolder(root="absent", image_size=16, batch_size=4, val_size=0.25)
    datamodule.relocate(str(root), class_names, state)
    datamodule.prepare_data()
    datamodule.setup("test")
    assert datamodule.class_names == class_names and datamodule.state_dict() == {}
    return datamodule


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        ({"": 5}, [5, 5, 5]),
        ({"test": 4}, [4, 4, 4]),
        ({"train": 3, "test": 4}, [4, 4, 4]),
        ({"train": 3, "val": 2}, [5, 5, 5]),
        ({"val": 2}, [2, 2, 2]),
    ],
)
@pytest.mark.parametrize("state_is_known", [True, False])
def test_all_of_other_data_is_tested(
    tmp_path: Path,
    layout: dict[str, int],
    expected: list[int],
    state_is_known: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, state = trained(draw_squares(tmp_path / "old", 8))
    for seed, (part, count) in enumerate(layout.items()):
        draw_squares(tmp_path / "new" / part, count, seed + 10)
    capsys.readouterr()
    datamodule = on_other_data(tmp_path / "new", state if state_is_known else {})
    assert counts(datamodule.test_images.labels) == expected
    told = capsys.readouterr().out
    assert f"Pictures: {sum(expected)} in 3 classes in {tmp_path / 'new'}" in told
    assert ("does not say which ones it was trained on; all are tested" in told) != state_is_known


def test_classes_may_be_missing_from_other_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, state = trained(draw_squares(tmp_path / "old", 8))
    draw_squares(tmp_path / "new", 5, 1, names=("red",))
    assert on_other_data(tmp_path / "new", state).test_images.labels.tolist() == [2] * 5
    assert "Pictures: none of blue, green for test in" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("lay_out", "message"),
    [
        (lambda root: draw_squares(root, 2, names=("red", "yellow")), r"blue, green, red in .*new .* but found yellow"),
        (no_directory, r"expected a directory of pictures but found none at .*new; name it: data\.root=DIR"),
        (no_classes, r"pictures of the classes blue, green, red in .*new but found none; lay them out as"),
        (pictures_without_folders, r"pictures of the classes blue, green, red in .*new but found none"),
    ],
)
def test_other_data_that_do_not_fit_are_told(tmp_path: Path, lay_out: Callable[[Path], Any], message: str) -> None:
    COLOURS["yellow"] = (220, 220, 20)
    try:
        lay_out(tmp_path / "new")
    finally:
        del COLOURS["yellow"]
    with pytest.raises(UserError, match=message):
        on_other_data(tmp_path / "new", {}, tuple(sorted(COLOURS)))


@pytest.mark.parametrize("layout", ["", "train"])
@pytest.mark.parametrize("in_memory", [True, False])
def test_moved_training_folder_is_tested_on_what_was_not_trained_on(
    tmp_path: Path, layout: str, in_memory: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    draw_squares(tmp_path / "old" / layout, 20)
    before, state = trained(tmp_path / "old", in_memory=in_memory)
    (tmp_path / "old").rename(tmp_path / "moved")
    after = on_other_data(tmp_path / "moved", state)
    assert len(state["contents"]) == 48 and counts(after.test_images.labels) == [4] * 3
    assert "Pictures: 48 that training and validation used are left out, 12 are tested\n" in capsys.readouterr().out
    if in_memory:
        assert torch.equal(after.test_images.images, before.test_images.images)  # in the same order


def test_training_pictures_among_others_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, state = trained(draw_squares(tmp_path / "old", 20))
    new = draw_squares(tmp_path / "new", 6, seed=5)
    for name in before.training_files.names[-7:]:  # of class red; the new pictures end with 005.png
        shutil.copy(tmp_path / "old" / name, new / name)
    assert counts(on_other_data(new, state).test_images.labels) == [6] * 3
    assert "Pictures: 7 that training and validation used are left out, 18 are tested\n" in capsys.readouterr().out


def test_training_pictures_only_are_refused(tmp_path: Path) -> None:
    root = draw_squares(tmp_path / "old" / "train", 8)
    draw_squares(tmp_path / "old" / "test", 2, 1)
    _, state = trained(tmp_path / "old")
    with pytest.raises(UserError, match=r"that the network was not trained on in .*train but found none; name others"):
        on_other_data(root, state)


def test_uncompressed_pictures_of_the_same_names_are_other_pictures(tmp_path: Path) -> None:
    for seed, part in enumerate(("train", "test")):
        root = draw_squares(tmp_path / part, 6, seed)
        for path in sorted(root.rglob("*.png")):
            Image.open(path).save(path.with_suffix(".bmp"))
            path.unlink()
    sizes = {path.stat().st_size for path in tmp_path.rglob("*.bmp")}
    _, state = trained(tmp_path)
    assert len(sizes) == 1 and counts(on_other_data(tmp_path, state).test_images.labels) == [6] * 3


def same_middle(root: Path, seed: int) -> Path:
    """Uncompressed pictures of the same names, size and middle, that differ in their first row only."""
    draw_squares(root, 8)
    for path in sorted(root.rglob("*.png")):
        with Image.open(path) as image:
            pixels = np.array(image.resize((64, 64)))
        pixels[-1] = seed  # a BMP begins with the lowest row
        Image.fromarray(pixels).save(path.with_suffix(".bmp"))
        path.unlink()
    return root


def test_pictures_that_differ_in_any_byte_are_other_pictures(tmp_path: Path) -> None:
    data, state = trained(same_middle(tmp_path / "a", 1))
    other = same_middle(tmp_path / "b", 2)
    assert torch.isin(former_keys(data.training_files), former_keys(trained(other)[0].training_files)).all()
    assert counts(on_other_data(other, state).test_images.labels) == [8] * 3
    with pytest.raises(UserError, match="expected the images and the split"):
        trained(other)[0].load_state_dict(state)


@pytest.mark.parametrize("parts", [("train", "test"), ("",)])
def test_a_test_picture_like_a_training_picture_stays_one(tmp_path: Path, parts: tuple[str, ...]) -> None:
    """The same data give the same number of test pictures in training and in evaluation."""
    for seed, part in enumerate(parts):
        draw_squares(tmp_path / "a" / part, 8, seed)
    twins = sorted((tmp_path / "a" / parts[-1] / "red").iterdir())
    for path in twins[1:]:
        shutil.copy(next(tmp_path.joinpath("a", parts[0]).glob("red/000.png")), path)
    before, state = trained(tmp_path / "a")
    after = on_other_data(tmp_path / "a", state)
    assert torch.equal(after.test_images.images, before.test_images.images)


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_checkpoint_of_an_earlier_version_is_compared_as_it_was_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], in_memory: bool
) -> None:
    data, _ = trained(draw_squares(tmp_path / "a", 8), in_memory=in_memory)
    keys = former_keys(data.training_files)
    state = {"fingerprint": data.fingerprint(keys), "pictures": keys}
    data.load_state_dict(state)
    draw_squares(tmp_path / "b", 8, seed=1)
    with pytest.raises(UserError, match="expected the images and the split"):
        trained(tmp_path / "b")[0].load_state_dict(state)
    assert "earlier version" not in capsys.readouterr().out
    after = on_other_data(tmp_path / "a", state)
    told = capsys.readouterr().out
    assert "of an earlier version; what it was trained on is known by name, size and a part of the content" in told
    assert len(after.test_images.labels) == len(data.test_images.labels)


def test_folder_is_the_same_wherever_it_lies_and_however_it_is_read(tmp_path: Path) -> None:
    draw_squares(tmp_path / "old", 8)
    _, state = trained(tmp_path / "old", in_memory=True)
    (tmp_path / "old").rename(tmp_path / "new")
    trained(tmp_path / "new", in_memory=False, num_workers=0, batch_size=3)[0].load_state_dict(state)
    for changed in ({"seed": 1}, {"val_size": 0.3}, {"test_size": 0.3}, {"class_names": ["red", "green", "blue"]}):
        with pytest.raises(UserError, match="expected the images and the split"):
            trained(tmp_path / "new", **changed)[0].load_state_dict(state)
    next((tmp_path / "new" / "red").iterdir()).unlink()
    with pytest.raises(UserError, match="expected the images and the split"):
        trained(tmp_path / "new")[0].load_state_dict(state)


@pytest.mark.parametrize("background", ["white", "black", "mean"])
def test_transparent_pictures_show_the_background(tmp_path: Path, background: str) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for index in range(4):
            Image.new("RGBA", (9, 9), (0, 0, 0, 0)).save(tmp_path / name / f"{index}.png")
    pixels = make_folder(tmp_path, background=background).train_images.images
    expected = {"white": [255] * 3, "black": [0] * 3, "mean": [124, 116, 104]}[background]
    assert pixels.amin((0, 2, 3)).tolist() == pixels.amax((0, 2, 3)).tolist() == expected


@pytest.mark.parametrize(
    ("shared_memory", "workers"),
    [(None, 4), (2**30, 4), (10 * 9 * 768, 4), (10 * 9 * 768 - 1, 3), (6 * 9 * 768, 2), (64, 0)],
)
def test_workers_are_as_many_as_shared_memory_holds(
    tmp_path: Path,
    shared_memory: int | None,
    workers: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # 9 pictures of 3 x 16 x 16 bytes in a training and a validation batch; 2 batches a worker, and 2 more
    monkeypatch.setattr("image_classifier.data.pictures.free_shared_memory", lambda: shared_memory)
    root = draw_squares(tmp_path / "pictures", 4)
    datamodule = make_folder(root, in_memory=False, num_workers=4, eval_batch_size=5)
    loader = datamodule.val_dataloader()
    assert isinstance(loader, FileLoader) and loader.num_workers == workers
    told = capsys.readouterr().out.count(f"Workers: {workers} instead of 4, because ")
    assert told == (workers != 4)
    if not workers:
        assert sum(len(labels) for _, labels in loader) == len(datamodule.val_indices)


def test_limited_validation_of_sorted_folders_meets_all_classes(tmp_path: Path) -> None:
    root = draw_squares(tmp_path / "pictures", 40)
    for in_memory in (True, False):
        datamodule = make_folder(root, in_memory=in_memory, num_workers=0, eval_batch_size=10)
        for loader in (datamodule.val_dataloader(), datamodule.test_dataloader()):
            images, labels = next(iter(loader))
            assert len(labels.unique()) == 3
            for image, label in zip(images, labels, strict=True):
                assert image[:, 8, 8].argmax() == {0: 2, 1: 1, 2: 0}[int(label)]
        assert len(datamodule.first_training_images(10).labels.unique()) == 3


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
    saved = torch.load(tmp_path / "run" / "checkpoints" / "best.ckpt", weights_only=True)["ImageFolder"]
    assert saved["contents"].dtype == torch.int64 and len(saved["contents"]) == 48 and len(saved["fingerprint"]) == 64
    cfg = compose_config(
        f"ckpt_path={tmp_path}/run/checkpoints/best.ckpt",
        f"data.root={tmp_path}/moved",
        f"paths.run_dir={tmp_path}/eval",
        config_name="eval",
    )
    assert pipeline.evaluate(cfg) == 1.0


def test_missing_class_and_chosen_order_reach_the_confusion_matrix(
    compose_config: Callable[..., Any], tmp_path: Path
) -> None:
    draw_squares(tmp_path / "pictures" / "train", 12)
    draw_squares(tmp_path / "pictures" / "test", 3, 1, names=("red", "blue"))
    cfg = compose_config(
        *[override for override in TINY if not override.startswith("data")],
        "data=image_folder",
        f"data.root={tmp_path}/pictures",
        "data.class_names=[red,green,blue]",
        "data.image_size=12",
        "data.batch_size=4",
        "trainer.max_epochs=4",
        "trainer.limit_val_batches=0.01",
        "confusion_matrix=all",
        "confusion_matrix.normalize=[none,true,pred,all]",
        "callbacks.sample_images=null",
        "logger=csv",
    )
    assert pipeline.train(cfg) == 1.0
    rows = (tmp_path / "run" / "confusion_matrix" / "test.csv").read_text().splitlines()[1:]
    assert rows == ["red,3,0,0", "green,0,0,0", "blue,0,0,3"]


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("parts", [(), ("train", "val", "test")])
def test_classes_are_counted_without_decoding_and_missing_ones_told_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    parts: tuple[str, ...],
    in_memory: bool,
) -> None:
    root = tmp_path / "pictures"
    for part in parts or ("",):
        draw_squares(root / part, 8, names=("blue", "red") if part == "val" else tuple(COLOURS))
    datamodule = ImageFolder(root=str(root), image_size=16, batch_size=4, val_size=0.25, in_memory=in_memory)
    datamodule.prepare_data()
    with monkeypatch.context() as patched:
        patched.setattr("image_classifier.data.pictures.read_pictures", lambda *arguments: pytest.fail("decoded"))
        before = datamodule.class_counts()
    datamodule.setup("fit")
    labels = datamodule.training_labels()
    assert before.tolist() == datamodule.class_counts().tolist() == counts(labels[datamodule.train_indices])
    assert capsys.readouterr().out.count("none of green for validation") == (1 if parts else 0)


KILLED_AT_THE_START_OF_A_WORKER = """
import os, signal, time
from multiprocessing import Process
import torch
from image_classifier.data.pictures import FileLoader
from image_classifier.engine.images.batches import EpochBatches
start, work = Process.start, Process.run
def work_later(self):
    time.sleep(2)
    work(self)
def start_and_die(self):
    start(self)
    os.kill(os.getpid(), signal.SIGKILL)
Process.start, Process.run = start_and_die, work_later
batches = EpochBatches(torch.arange(8), 4, shuffle=False, seed=1)
next(iter(FileLoader([0] * 8, batches, 1)))
"""


def test_a_worker_does_not_outlive_a_training_that_was_killed() -> None:
    """It holds the pipe of the output, which ends with the last process that does."""
    command = [sys.executable, "-c", KILLED_AT_THE_START_OF_A_WORKER]
    done = forked.run(command, capture_output=True, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr
