"""Many pictures at once: what is kept, what is noted of each, bad ones, what is measured and shared."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from image_classifier.engine.errors import UserError
from image_classifier.engine.images import reading
from image_classifier.engine.images.picture_sets import PictureFiles
from image_classifier.engine.images.pictures import PictureForm, read_picture
from image_classifier.engine.images.reading import all_grey, check_pictures, measure, read_pictures

FORM = PictureForm(3, 6, 8, "stretch")


def draw(directory: Path, count: int = 5, mode: str = "RGB", suffix: str = ".png") -> list[Path]:
    directory.mkdir(exist_ok=True)
    random = np.random.default_rng(0)
    paths = [directory / f"{index:02}{suffix}" for index in range(count)]
    for index, path in enumerate(paths):
        pixels = random.integers(256, size=(20 + index, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).convert(mode).save(path)
    return paths


def pictures_at(paths: list[Path]) -> PictureFiles:
    return PictureFiles(paths, [path.name for path in paths], torch.arange(len(paths)), FORM)


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "gone":
        path.unlink()
    elif how == "locked":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes({"empty": b"", "text": b"no picture", "cut": content[: len(content) // 2]}[how])


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_pictures_are_those_read_one_by_one_with_their_facts(tmp_path: Path, suffix: str) -> None:
    paths = draw(tmp_path, suffix=suffix)
    found = read_pictures(pictures_at(paths), FORM)
    assert found.images is not None and found.good.all() and not found.errors
    assert torch.equal(found.images, torch.stack([read_picture(path, FORM) for path in paths]))
    assert [fact and tuple(fact) for fact in found.facts] == [(30, 20 + index, "RGB") for index in range(5)]
    assert len(set(found.digests.tolist())) == 5


@pytest.mark.parametrize("read", [lambda pictures: read_pictures(pictures, FORM), check_pictures])
@pytest.mark.parametrize("how", ["empty", "text", "cut", "gone", "locked"])
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_all_bad_pictures_are_found_in_one_pass(
    tmp_path: Path, read: Callable[[PictureFiles], Any], how: str, suffix: str
) -> None:
    paths = draw(tmp_path, suffix=suffix)
    for index in (1, 4):
        damage(paths[index], how)
    found = read(pictures_at(paths))
    assert list(found.errors) == [1, 4] and found.good.tolist() == [True, False, True, True, False]
    assert all(reason and "\n" not in reason and str(tmp_path) not in reason for reason in found.errors.values())
    if found.images is not None:
        good = [read_picture(paths[index], FORM) for index in (0, 2, 3)]
        assert torch.equal(found.images, torch.stack(good))


def test_checking_and_reading_know_the_same_of_pictures(tmp_path: Path) -> None:
    pictures = pictures_at(draw(tmp_path, suffix=".jpg") + draw(tmp_path, mode="LA") + draw(tmp_path, suffix=".bmp"))
    damage(pictures.paths[2], "cut")
    read, checked = read_pictures(pictures, FORM), check_pictures(pictures)
    assert read.facts == checked.facts and np.array_equal(read.digests, checked.digests)
    assert read.errors.keys() == checked.errors.keys() and checked.images is None


def test_what_is_read_is_shared_until_a_picture_is_another(tmp_path: Path) -> None:
    paths = draw(tmp_path)
    first = read_pictures(pictures_at(paths), FORM)
    assert read_pictures(pictures_at(paths), FORM) is first
    assert read_pictures(pictures_at(paths), FORM._replace(width=9)) is not first
    status = paths[0].stat()
    content = bytearray(paths[3].read_bytes())
    paths[0].write_bytes(content)
    os.truncate(paths[0], status.st_size)
    os.utime(paths[0], ns=(status.st_atime_ns, status.st_mtime_ns))  # neither size nor time of change tell
    assert read_pictures(pictures_at(paths), FORM) is not first


def test_results_that_are_not_used_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = pictures_at(draw(tmp_path))
    first = read_pictures(pictures, FORM)
    for width in range(10, 10 + reading.SHARED_RESULTS):
        read_pictures(pictures, FORM._replace(width=width))
    assert read_pictures(pictures, FORM) is not first


@pytest.mark.parametrize(
    ("modes", "expected"),
    [(["L"], True), (["L", "LA", "1", "I;16"], True), (["L", "P"], False), (["L", "RGB"], False), (["RGBA"], False)],
)
def test_grey_pictures_are_known_by_their_modes(tmp_path: Path, modes: list[str], expected: bool) -> None:
    paths = []
    for mode in modes:
        path = tmp_path / f"{modes.index(mode)}.png"
        pixels = np.zeros((4, 4), dtype=np.uint16 if mode == "I;16" else np.uint8)
        image = Image.fromarray(pixels)
        (image if mode == "I;16" else image.convert(mode)).save(path)
        paths.append(path)
    (tmp_path / "bad.png").write_bytes(b"no picture")
    assert all_grey(pictures_at([tmp_path / "bad.png", *paths])) == expected


@pytest.mark.parametrize("most", [1000, 3])
def test_mean_and_deviation_are_those_of_the_pixels(tmp_path: Path, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MEASURED", most)
    paths = draw(tmp_path, 7)
    damage(paths[1], "text")
    mean, std = measure(pictures_at(paths), FORM)
    chosen = [0, 3, 6] if most == 3 else [0, 2, 3, 4, 5, 6]
    pixels = torch.stack([read_picture(paths[index], FORM) for index in chosen]).numpy() / 255
    np.testing.assert_allclose(mean, pixels.mean((0, 2, 3)), atol=5.1e-5)
    np.testing.assert_allclose(std, pixels.std((0, 2, 3)), atol=5.1e-5)


def test_constant_pictures_have_a_deviation_that_can_be_divided_by(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), (51, 102, 255)).save(tmp_path / "a.png")
    assert measure(pictures_at([tmp_path / "a.png"]), FORM) == ((0.2, 0.4, 1.0), (1.0, 1.0, 1.0))


def test_nothing_to_measure_is_told(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="training pictures that can be decoded but found none"):
        measure(pictures_at([tmp_path / "bad.png"]), FORM)
