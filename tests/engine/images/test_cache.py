"""Decoded pictures on the disk: the same as without, known by content, whole after a kill, shared by processes."""

import errno
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import forked
from image_classifier.engine.errors import UserError
from image_classifier.engine.images import cache
from image_classifier.engine.images.cache import Store, all_digests, describe_kept, read_cached
from image_classifier.engine.images.picture_sets import PictureFiles, PictureItems, Reading
from image_classifier.engine.images.pictures import PictureForm
from image_classifier.engine.images.reading import read_pictures
from image_classifier.engine.project import PROJECT_ROOT

FORM = PictureForm(3, 6, 8, "stretch")
FORMS = [FORM, FORM._replace(channels=1, background=(255,)), FORM._replace(fit="pad"), FORM._replace(width=5)]


def draw(directory: Path, count: int = 6, seed: int = 0) -> list[Path]:
    directory.mkdir(exist_ok=True, parents=True)
    random = np.random.default_rng(seed)
    paths = [directory / f"{index:02}{('.png', '.jpg')[index % 2]}" for index in range(count)]
    for index, path in enumerate(paths):
        Image.fromarray(random.integers(256, size=(20 + index, 30, 3), dtype=np.uint8)).save(path)
    return paths


def pictures_at(paths: list[Path]) -> PictureFiles:
    return PictureFiles(paths, [path.name for path in paths], torch.arange(len(paths)))


def assert_same(found: Reading, expected: Reading) -> None:
    assert found.facts == expected.facts and dict(found.errors) == dict(expected.errors)
    assert np.array_equal(found.digests, expected.digests)
    assert found.images is not None and expected.images is not None and torch.equal(found.images, expected.images)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{form.channels}-{form.width}-{form.fit}")
@pytest.mark.parametrize("bad", [(), (1,), (0, 5), range(6)])
def test_it_reads_what_is_read_without_it(tmp_path: Path, form: PictureForm, bad: tuple[int, ...]) -> None:
    paths = draw(tmp_path / "pictures")
    for number, index in enumerate(bad):
        paths[index].write_bytes(paths[index].read_bytes()[:100]) if number % 2 else paths[index].unlink()
    expected = read_pictures(pictures_at(paths), form)
    gone = (len(bad) + 1) // 2
    for decoded in (6 - gone, 0):
        found = read_cached(pictures_at(paths), form, tmp_path / "cache")
        assert_same(found.reading, expected)
        assert found.decoded == decoded
    assert not list((tmp_path / "cache").glob("*.part"))


def test_only_other_contents_are_decoded_again(tmp_path: Path) -> None:
    paths, directory = draw(tmp_path / "pictures"), tmp_path / "cache"
    assert read_cached(pictures_at(paths), FORM, directory).decoded == 6
    status = paths[2].stat()
    Image.new("RGB", (30, 22), "red").save(paths[2])
    os.utime(paths[2], ns=(status.st_atime_ns, status.st_mtime_ns))  # the content alone tells
    paths[4].touch()  # the same content
    found = read_cached(pictures_at(paths), FORM, directory)
    assert found.decoded == 1
    assert_same(found.reading, read_pictures(pictures_at(paths), FORM))
    moved = tmp_path / "moved"
    (tmp_path / "pictures").rename(moved)
    paths = [moved / path.name for path in paths][::-1] + draw(tmp_path / "new", 1, seed=1)
    found = read_cached(pictures_at(paths), FORM, directory)
    assert found.decoded == 1
    assert_same(found.reading, read_pictures(pictures_at(paths), FORM))


def test_another_form_or_decoder_is_another_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = draw(tmp_path / "pictures")
    for form in FORMS:
        assert read_cached(pictures_at(paths), form, tmp_path / "cache").decoded == 6
    monkeypatch.setattr(cache.PIL, "__version__", "0.0.1")
    assert read_cached(pictures_at(paths), FORM, tmp_path / "cache").decoded == 6


@pytest.mark.parametrize("suffix", ["pixels", "npz"])
@pytest.mark.parametrize("how", ["gone", "empty", "cut", "longer"])
def test_damaged_files_are_made_again(tmp_path: Path, suffix: str, how: str) -> None:
    pictures = pictures_at(draw(tmp_path / "pictures"))
    expected = read_pictures(pictures, FORM)
    read_cached(pictures, FORM, tmp_path / "cache")
    (file,) = (tmp_path / "cache").glob(f"*.{suffix}")
    content = file.read_bytes()
    if how == "gone":
        file.unlink()
    else:
        file.write_bytes({"empty": b"", "cut": content[:-7], "longer": content + b"more"}[how])
    found = read_cached(pictures, FORM, tmp_path / "cache")
    assert_same(found.reading, expected)
    assert found.decoded == (6 if how != "longer" or suffix == "pixels" else found.decoded)


def test_images_of_pillow_that_share_bytes_stay_apart(tmp_path: Path) -> None:
    """Shape, mode, palette and transparent value belong to the content as much as the bytes do."""
    flat = np.arange(24, dtype=np.uint8)
    images = [Image.fromarray(flat.reshape(4, 6)), Image.fromarray(flat.reshape(6, 4))]
    for colours in ([index for index in range(256) for _ in range(3)], list(range(256)) * 3):
        image = Image.fromarray(flat.reshape(4, 6)).convert("P")
        image.putpalette(colours)
        images.append(image)
    images.append(images[-1].copy())
    images[-1].info["transparency"] = 3
    pictures = PictureItems(images, lambda image: image, torch.zeros(len(images), dtype=torch.int64))
    expected = read_pictures(pictures, FORM)
    for decoded in (5, 0):
        found = read_cached(pictures, FORM, tmp_path)
        assert found.decoded == decoded
        assert_same(found.reading, expected)
    assert len(set(expected.digests.tolist())) == 5


def read_in_a_process(arguments: tuple[list[Path], Path]) -> tuple[int, float]:
    found = read_cached(pictures_at(arguments[0]), FORM, arguments[1])
    assert found.reading.images is not None
    return found.decoded, float(found.reading.images.double().sum())


def test_of_several_processes_one_decodes(tmp_path: Path) -> None:
    paths = draw(tmp_path / "pictures", 60)
    expected = read_pictures(pictures_at(paths), FORM).images
    assert expected is not None
    with ProcessPoolExecutor(3, mp_context=get_context("fork")) as pool:
        found = list(pool.map(read_in_a_process, [(paths, tmp_path / "cache")] * 3))
    assert sorted(decoded for decoded, _ in found) == [0, 0, 60]
    assert {total for _, total in found} == {float(expected.double().sum())}


def test_a_kill_leaves_nothing_half_done(tmp_path: Path) -> None:
    """Killed within the writing of the pixels: the next process makes them, and clears what lay about."""
    paths, directory = draw(tmp_path / "pictures", 8), tmp_path / "cache"
    script = (
        "import sys, time; from pathlib import Path; import image_classifier.engine.images.cache as cache\n"
        "cache.CHUNK = 1; from test_cache import FORM, pictures_at; decode = cache.decode\n"
        "cache.decode = lambda *given: (time.sleep(0.2), decode(*given))[1]\n"
        "cache.read_cached(pictures_at(sorted(Path(sys.argv[1]).iterdir())), FORM, Path(sys.argv[2]))\n"
    )
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    process = forked.Process(
        [sys.executable, "-c", script, str(tmp_path / "pictures"), str(directory)],
        env=os.environ | {"PYTHONPATH": path},
    )
    while not list(directory.glob("*.part")):
        assert process.poll() is None, "ended before it was killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(directory.glob("*.part")) and not list(directory.glob("*.npz"))
    found = read_cached(pictures_at(paths), FORM, directory)
    assert found.decoded == 8 and not list(directory.glob("*.part"))
    assert_same(found.reading, read_pictures(pictures_at(paths), FORM))


@pytest.mark.parametrize("suffix", ["pixels", "npz"])
def test_only_its_own_unfinished_files_are_removed(tmp_path: Path, suffix: str) -> None:
    """Whatever else lies in the directory stays, however alike its name."""
    pictures, directory = pictures_at(draw(tmp_path / "pictures")), tmp_path / "cache"
    name = Store(directory, FORM, all_digests(pictures)[0]).name
    directory.mkdir()
    left = [f"{name}.{suffix}.part", f"{'0' * 12}-{'a' * 24}.{suffix}.part"]
    others = ["movie.mkv.part", f"{suffix}.part", f"my {name}.{suffix}.part", f"{name}.{suffix}.7.part", f"{name}.part"]
    for file in (*left, *others):
        (directory / file).touch()
    read_cached(pictures, FORM, directory)
    assert sorted(path.name for path in directory.glob("*.part")) == sorted(others)


def test_a_picture_that_changes_meanwhile_is_told_and_nothing_is_kept(tmp_path: Path) -> None:
    paths, directory = draw(tmp_path / "pictures"), tmp_path / "cache"
    pictures = pictures_at(paths)
    digests, _ = all_digests(pictures)
    Image.new("RGB", (3, 3)).save(paths[3])
    directory.mkdir()
    with pytest.raises(UserError, match=r"stay as they are .* but found .*03\.jpg changed; start again"):
        Store(directory, FORM, digests).fill(pictures)
    assert not list(directory.iterdir())


def no_room(file: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("how", ["a file", "full"])
def test_a_directory_that_cannot_be_written_is_told(tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures, directory = pictures_at(draw(tmp_path / "pictures")), tmp_path / "cache"
    if how == "a file":
        directory.write_text("no directory")
    else:
        monkeypatch.setattr(
            cache.os, "fsync", lambda file: (_ for _ in ()).throw(OSError(28, "No space left on device"))
        )
    with pytest.raises(UserError, match=r"can be written but found .*cache: .*data\.cache=null"):
        read_cached(pictures, FORM, directory)
    assert how == "a file" or not [path for path in directory.iterdir() if path.name != ".lock"]


def test_pixels_are_shared_and_what_is_written_to_them_stays_here(tmp_path: Path) -> None:
    pictures = pictures_at(draw(tmp_path / "pictures"))
    first = read_cached(pictures, FORM, tmp_path / "cache").reading.images
    assert first is not None
    before = first.clone()
    first.zero_()
    again = read_cached(pictures, FORM, tmp_path / "cache").reading.images
    assert again is not None and torch.equal(again, before)


def test_what_is_not_used_is_told_and_can_be_removed(tmp_path: Path) -> None:
    pictures, directory = pictures_at(draw(tmp_path / "pictures")), tmp_path / "cache"
    for form in (FORM, FORMS[1]):
        read_cached(pictures, form, directory)
    assert describe_kept(directory) == "1.15 KB"  # 6 x 144 and 6 x 48 bytes
    long_ago = time.time() - 31 * 86400
    for file in directory.iterdir():
        os.utime(file, (long_ago, long_ago))
    assert read_cached(pictures, FORM, directory).decoded == 0
    assert describe_kept(directory).endswith(f", of which {6 * FORMS[1].nbytes} bytes not used for 30 days")
    (command,) = re.findall(r"`(find .*)`", (PROJECT_ROOT / "docs" / "data.md").read_text())
    subprocess.run(shlex.split(command.replace("outputs/decoded", str(directory))), check=True)
    assert read_cached(pictures, FORM, directory).decoded == 0
    assert read_cached(pictures, FORMS[1], directory).decoded == 6
