"""Pictures in shards: every one served once over all processes, resumed inside an epoch, and mistakes in one line."""

import io
import shutil
import tarfile
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from image_classifier.data.pictures import FileLoader
from image_classifier.data.webdataset import WebDataset
from image_classifier.engine.errors import UserError
from image_classifier.engine.images import shards as shards_of
from image_classifier.engine.images.batches import EpochBatches
from image_classifier.engine.images.pictures import PictureForm
from image_classifier.engine.images.shards import PictureShards, samples_of
from picture_sources import CLASSES, pictures, write_folder, write_shards

SETTINGS: dict[str, Any] = {"image_size": 12, "batch_size": 4, "val_size": 0.25, "num_workers": 0}
FORM = PictureForm(3, 12, 12, "stretch")


def png(value: int = 0) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 4), (value, 0, 0)).save(stream, "png")
    return stream.getvalue()


def write(shard: Path, members: Sequence[tuple[str, bytes]], mode: Any = "w") -> Path:
    shard.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(shard, mode) as file:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return shard


def set_up(root: Path, **settings: Any) -> WebDataset:
    datamodule = WebDataset(root=str(root), **SETTINGS | settings)
    datamodule.prepare_data()
    datamodule.setup("fit")
    datamodule.setup("test")
    return datamodule


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shards")
    return write_shards(root / "shards", write_folder(root / "folder", 8), shards=3)


@pytest.mark.parametrize("label", ["cls", "json.label"])
@pytest.mark.parametrize("number", [1, 3, 5])
def test_pictures_and_labels_are_those_of_the_folder(tmp_path: Path, number: int, label: str) -> None:
    folder = write_folder(tmp_path / "folder", 8)
    root = write_shards(tmp_path / "shards", folder, number, label.partition(".")[0])
    datamodule = WebDataset(root=str(root), label=label, test_size=6, **SETTINGS)
    found = datamodule.find_parts(Counter())["train"]
    found.form = FORM
    assert datamodule.class_names == CLASSES and len(found) == 24
    expected = Counter((image.tobytes(), CLASSES.index(name)) for image, name in pictures(8))
    served = [found[index] for index in range(len(found))]
    assert Counter((image.permute(1, 2, 0).numpy().tobytes(), int(label)) for image, label in served) == expected


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_each_picture_once_over_all_processes_and_a_resume_repeats_none(
    shards: Path, world_size: int, num_workers: int
) -> None:
    found = WebDataset(root=str(shards), **SETTINGS).find_parts(Counter())["train"]
    found.form = FORM
    images: Counter[bytes] = Counter()
    for rank in range(world_size):
        batches = [
            EpochBatches(torch.arange(24), 4, shuffle=True, seed=3, rank=rank, world_size=world_size) for _ in range(2)
        ]
        loader, resumed = (FileLoader(found, part, num_workers) for part in batches)
        served = []
        for number, batch in enumerate(loader):
            if number == 0:
                resumed.load_state_dict(loader.state_dict())
            served.append(batch)
            images.update(image.numpy().tobytes() for image in batch[0])
        rest = list(resumed)
        assert len(rest) == len(loader) - 1
        for (again, labels), (before, labels_before) in zip(rest, served[1:], strict=True):
            assert torch.equal(again, before) and torch.equal(labels, labels_before)
    assert len(images) == 24 and set(images.values()) == {1}


def test_parts_have_folders_of_their_own_or_are_a_share(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "folder", 8)
    whole = set_up(write_shards(tmp_path / "whole", folder))
    assert [len(whole.train_indices), len(whole.val_indices), len(whole.files["test"])] == [14, 5, 5]
    for part, count in (("train", 8), ("val", 2), ("test", 3)):
        write_shards(tmp_path / "parts" / part, write_folder(tmp_path / part, count, seed=count))
    parts = set_up(tmp_path / "parts", in_memory=False)
    assert [len(parts.train_indices), len(parts.val_indices), len(parts.files["test"])] == [24, 6, 9]
    assert parts.summary().to_json()["split"] == {"val": "a part of its own", "test": "a part of its own"}
    assert "duplicates" not in str(parts.summary().to_json()["warnings"])


def test_numbers_are_named_by_class_names(tmp_path: Path) -> None:
    members = [(f"{n:02}.{end}", b) for n in range(30) for end, b in (("png", png(n)), ("cls", b"%d\n" % (n % 11)))]
    write(tmp_path / "0.tar", members)
    names = [f"class_{number}" for number in range(12)]
    train = WebDataset(root=str(tmp_path), **SETTINGS)
    found = train.find_parts(Counter())["train"]
    assert train.class_names == tuple(map(str, range(11))) and found.labels.tolist() == [n % 11 for n in range(30)]
    named = WebDataset(root=str(tmp_path), class_names=names, **SETTINGS)
    assert named.find_parts(Counter())["train"].labels.tolist() == found.labels.tolist()
    assert named.class_names == tuple(names)
    elsewhere = WebDataset(root=str(tmp_path), **SETTINGS)
    elsewhere.relocate(str(tmp_path), names, {})
    assert elsewhere.find_all(Counter()).labels.tolist() == found.labels.tolist()


def test_bad_pictures_are_named_with_shard_and_member(tmp_path: Path) -> None:
    root = write_shards(tmp_path / "shards", write_folder(tmp_path / "folder", 8), 2)
    write(root / "bad.tar", [("a.jpg", b"no picture"), ("a.cls", b"red"), ("b.png", png()[:40]), ("b.cls", b"blue")])
    for in_memory in (True, False):
        with pytest.raises(UserError, match=r"found 2 that cannot be decoded: bad\.tar/a\.jpg \(.*bad\.tar/b\.png \("):
            set_up(root, in_memory=in_memory, test_size=0.5)
        datamodule = set_up(root, in_memory=in_memory, on_error="skip")
        assert len(datamodule.train_indices) + len(datamodule.val_indices) + len(datamodule.test_images.labels) == 24


@pytest.mark.parametrize(
    ("members", "mode", "message"),
    [
        ([("a.png", png())], "w", r"no member a\.cls; name what holds the labels"),
        ([("a.png", png()), ("b.cls", b"1")], "w", r"found none for a: no member a\.cls"),
        ([("a.png", png()), ("a.cls", b" \n")], "w", "found none in that of a"),
        ([("a.png", png()), ("a.jpg", png()), ("a.cls", b"1")], "w", "one picture a sample .* several for a"),
        ([("a.png", png()), ("a.cls", b"1")], "w:gz", "tar file that is not compressed"),
        ([("a.png", png()), ("a.cls", b"1"), ("b.png", png()), ("b.cls", b"1")], "w", "two or more labels"),
        ([("a.txt", b"text")], "w", "expected shards with pictures"),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path: Path, members: Any, mode: str, message: str) -> None:
    write(tmp_path / "0.tar", members, mode)
    with pytest.raises(UserError, match=message) as told:
        WebDataset(root=str(tmp_path), **SETTINGS).prepare_data()
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("kept", [10, 700, 1500])
def test_a_shard_that_was_cut_is_told(tmp_path: Path, kept: int) -> None:
    shard = write(tmp_path / "0.tar", [("a.png", png() * 9), ("a.cls", b"1"), ("b.png", png() * 9), ("b.cls", b"2")])
    shard.write_bytes(shard.read_bytes()[:kept])
    with pytest.raises(UserError):
        WebDataset(root=str(tmp_path), **SETTINGS).prepare_data()


def test_what_is_no_picture_is_skipped_and_long_names_are_read(tmp_path: Path) -> None:
    long = "directory/" + "x" * 200
    members = [("notes.md", b"words"), (f"{long}.png", png()), (f"{long}.cls", b"rose"), ("a/.hidden", b"")]
    members += [("a/one.png", png()), ("a/one.cls", b"rose"), ("b/one.png", png()), ("b/one.cls", b"daisy")]
    skipped: Counter[str] = Counter()
    found = list(samples_of(write(tmp_path / "0.tar", members), "cls", skipped))
    assert [sample.label for sample in found] == ["rose", "rose", "daisy"]
    assert skipped == {".md in a shard": 1, "hidden in a shard": 1}
    places = np.array([(0, sample.offset, sample.size) for sample in found])
    pictures = PictureShards([tmp_path / "0.tar"], places, torch.tensor([1, 1, 0]))
    assert [pictures.content(index) for index in range(3)] == [png()] * 3
    assert pictures.describe(2).endswith("0.tar/b/one.png")


def test_another_shard_is_another_version(tmp_path: Path) -> None:
    def version() -> Any:
        return WebDataset(root=str(tmp_path), **SETTINGS).find_parts(Counter())["train"].version()

    members = [("a.png", png()), ("a.cls", b"1"), ("b.png", png()), ("b.cls", b"2")]
    write(tmp_path / "0.tar", members)
    first = version()
    assert version() == first
    write(tmp_path / "0.tar", [("a.png", png(9)), *members[1:]])
    assert version() != first


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts what is read of shards: headers of a whole one, and pictures."""
    counts: Counter[str] = Counter()
    content, walk = PictureShards.content, shards_of.members

    def counted(what: str, function: Any) -> Any:
        return lambda *arguments: (counts.update([what]), function(*arguments))[1]

    monkeypatch.setattr(PictureShards, "content", counted("pictures", content))
    monkeypatch.setattr(shards_of, "members", counted("shards", walk))
    return counts


def spoilt(root: Path) -> Path:
    """Three shards, and a fourth with a picture that cannot be decoded and two files that are none."""
    write_shards(root, write_folder(root.parent / "folder", 8), 3)
    write(root / "bad.tar", [("a.jpg", b"no picture"), ("a.cls", b"red"), ("b.md", b""), ("c.txt", b"")])
    return root


def test_another_run_reads_no_header_and_checks_no_picture(tmp_path: Path, reads: Counter[str]) -> None:
    settings = {"in_memory": False, "on_error": "skip", "class_names": CLASSES}
    first = set_up(spoilt(tmp_path / "shards"), **settings)
    assert reads == {"shards": 4, "pictures": 25}
    (tmp_path / "shards").rename(tmp_path / "moved")  # so that nothing is remembered in this process
    reads.clear()
    second = set_up(tmp_path / "moved", **settings)
    assert not reads
    assert second.skipped == first.skipped == {".md in a shard": 1, ".txt in a shard": 1}
    assert second.unreadable == first.unreadable and len(second.unreadable) == 1
    assert second.summary().to_json()["sizes"] == first.summary().to_json()["sizes"]
    assert torch.equal(second.image_sample(), first.image_sample())


def test_only_a_shard_that_changed_is_looked_through_again(tmp_path: Path, reads: Counter[str]) -> None:
    root = spoilt(tmp_path / "shards")
    set_up(root, in_memory=False, on_error="skip")
    write(root / "bad.tar", [("a.jpg", png()), ("a.cls", b"red")])
    reads.clear()
    again = set_up(root, in_memory=False)
    assert reads["shards"] == 1 and reads["pictures"] and not again.unreadable and not again.skipped
    reads.clear()
    with pytest.raises(UserError, match="no member"):
        set_up(root, in_memory=False, label="json.label")
    assert reads["shards"] == 1  # what is kept has another label


@pytest.mark.parametrize(
    "spoil", [lambda path: path.write_bytes(b"PK"), lambda path: path.write_bytes(path.read_bytes()[:-40])]
)
def test_what_is_kept_may_be_damaged_or_impossible_to_write(tmp_path: Path, spoil: Any, reads: Counter[str]) -> None:
    root = spoilt(tmp_path / "shards")
    first = set_up(root, in_memory=False, on_error="skip")
    for path in (root / ".index").iterdir():
        spoil(path)
    assert set_up(root, in_memory=False, on_error="skip").unreadable == first.unreadable
    shutil.rmtree(root / ".index")
    (root / ".index").write_text("in the way")
    assert set_up(root, in_memory=False, on_error="skip").unreadable == first.unreadable
    assert reads["shards"] == 12 and [path.name for path in root.iterdir() if path.suffix != ".tar"] == [".index"]


def uncompressed(count: int, seed: int) -> list[tuple[str, bytes]]:
    """Members of a shard with pictures of one size in bytes."""
    members = []
    for number, (image, name) in enumerate(pictures(count, seed)):
        image.save(stream := io.BytesIO(), "bmp")
        members += [(f"{number}.bmp", stream.getvalue()), (f"{number}.cls", name.encode())]
    return members


@pytest.mark.parametrize("when", ["while its headers are read", "before the check", "while it is checked"])
@pytest.mark.parametrize("how", ["another file", "in place"])
@pytest.mark.parametrize("count", [8, 9])  # of each class; so many as before lie where those lay
def test_a_shard_that_is_replaced_meanwhile_is_not_remembered_as_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str, how: str, count: int
) -> None:
    root, other = tmp_path / "shards", tmp_path / "other"
    shard = write(root / "0.tar", uncompressed(8, 0))
    content = write(other / "0.tar", uncompressed(count, 5)).read_bytes()
    expected = set_up(other, in_memory=False).image_sample()

    def replace() -> None:
        if how == "another file":
            (tmp_path / "part").write_bytes(content)
            (tmp_path / "part").replace(shard)
        else:
            shard.write_bytes(content)

    walk, read, reads = shards_of.samples_of, PictureShards.content, iter(range(1000))

    def walked(*arguments: Any) -> Any:
        yield from walk(*arguments)
        replace()

    def content_of(pictures: PictureShards, index: int) -> bytes:
        if next(reads) == 4:
            replace()
        return read(pictures, index)

    datamodule = WebDataset(root=str(root), in_memory=False, **SETTINGS)
    with monkeypatch.context() as patched:
        if when == "while its headers are read":
            patched.setattr(shards_of, "samples_of", walked)
        datamodule.prepare_data()
    if when == "before the check":
        replace()
    with monkeypatch.context() as patched, suppress(UserError):  # pictures that lie elsewhere now
        if when == "while it is checked":
            patched.setattr(PictureShards, "content", content_of)
        datamodule.setup("fit")
    assert torch.equal(set_up(root, in_memory=False).image_sample(), expected)
