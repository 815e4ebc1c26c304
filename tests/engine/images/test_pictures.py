"""Picture files: which are found, and to what size and channels they are decoded (pixels: test_pixels.py)."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from image_classifier.engine.errors import UserError
from image_classifier.engine.images.pictures import (
    Fit,
    PictureForm,
    class_folders,
    class_name,
    describe_skipped,
    find_pictures,
    picture_suffixes,
    read_picture,
)


def save(path: Path, pixels: np.ndarray, **settings: object) -> Path:
    Image.fromarray(pixels).save(path, **settings)  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_of_a_picture_that_fits_are_kept(tmp_path: Path, channels: int) -> None:
    pixels = np.random.default_rng(0).integers(256, size=(6, 6, 3), dtype=np.uint8)
    if channels == 1:
        pixels = pixels[..., 0]
    image = read_picture(save(tmp_path / "a.png", pixels), PictureForm(channels, 6, 6, "crop"))
    assert image.dtype == torch.uint8 and image.shape == (channels, 6, 6)
    assert np.array_equal(image.numpy(), pixels[None] if channels == 1 else pixels.transpose(2, 0, 1))


@pytest.mark.parametrize(("fit", "edge"), [("crop", 255), ("stretch", 0)])
def test_crop_keeps_the_centre_and_stretch_keeps_everything(tmp_path: Path, fit: Fit, edge: int) -> None:
    pixels = np.zeros((20, 60), dtype=np.uint8)
    pixels[:, 20:40] = 255  # white centre, black sides
    image = read_picture(save(tmp_path / "wide.png", pixels), PictureForm(1, 20, 20, fit))
    assert image[0, 10, 1] == edge and image[0, 10, 10] == 255


@pytest.mark.parametrize("shape", [(10, 30), (30, 10), (30, 30), (7, 9)])
@pytest.mark.parametrize("channels", [1, 3])
def test_pad_keeps_everything_and_the_proportions(tmp_path: Path, shape: tuple[int, int], channels: int) -> None:
    path = save(tmp_path / "a.png", np.full(shape, 200, dtype=np.uint8))
    image = read_picture(path, PictureForm(channels, 15, 20, "pad", (9, 8, 7)[:channels]))
    scale = min(15 / shape[0], 20 / shape[1])
    height, width = round(shape[0] * scale), round(shape[1] * scale)
    top, left = round((15 - height) / 2), round((20 - width) / 2)
    expected = torch.tensor((9, 8, 7)[:channels], dtype=torch.uint8).view(-1, 1, 1).repeat(1, 15, 20)
    expected[:, top : top + height, left : left + width] = 200
    assert torch.equal(image, expected)


@pytest.mark.parametrize("content", [b"", b"no picture", "cut"])
def test_unreadable_file_is_named(tmp_path: Path, content: bytes | str) -> None:
    path = save(tmp_path / "bad.png", np.random.default_rng(0).integers(256, size=(50, 50, 3), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:2000] if isinstance(content, str) else content)
    form = PictureForm(3, 8, 8, "crop")
    with pytest.raises(UserError, match=r"expected a picture but found .*bad\.png"):
        read_picture(path, form)


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def found(directory: Path, skipped: Counter[str] | None = None) -> list[str]:
    return [path.relative_to(directory).as_posix() for path in find_pictures(directory, skipped)]


def test_pictures_are_found_and_what_is_skipped_is_counted(tmp_path: Path) -> None:
    touch(tmp_path, "b.png", "a.JPG", "deep/er/c.webp", "scan.jp2", "x.TIFF", ".hidden/d.png", ".e.png")
    touch(tmp_path, "notes.txt", "deep/f.svg", "deep/g.SVG", "README", "doc.pdf", "h.eps", "film.mpg")
    skipped: Counter[str] = Counter()
    assert found(tmp_path, skipped) == ["a.JPG", "b.png", "deep/er/c.webp", "scan.jp2", "x.TIFF"]
    assert skipped == {
        "hidden": 2, ".svg": 2, ".txt": 1, "without suffix": 1, ".pdf": 1, ".eps": 1, ".mpg": 1
    }  # fmt: skip
    told = describe_skipped(skipped)
    assert told.startswith("skipped 9 files (2 ") and "2 .svg" in told and "1 without suffix" in told
    assert describe_skipped(Counter({".svg": 1})) == "skipped 1 file (1 .svg)" and describe_skipped(Counter()) == ""


def test_suffixes_are_those_of_formats_that_pillow_decodes() -> None:
    Image.init()
    suffixes = picture_suffixes()
    assert suffixes >= {".jpg", ".jpeg", ".jfif", ".png", ".gif", ".bmp", ".tif", ".webp", ".avif", ".jp2", ".tga"}
    assert suffixes >= {".pgm", ".pbm", ".pnm", ".ico", ".psd", ".pcx", ".dds", ".fits", ".mpo", ".qoi"}
    assert not suffixes & {".pdf", ".eps", ".ps", ".h5", ".hdf", ".grib", ".bufr", ".mpg", ".wmf", ".emf", ".txt"}
    for suffix in suffixes - {".mpo"}:
        name = Image.registered_extensions()[suffix]
        factory = Image.OPEN[name][0]
        assert not (isinstance(factory, type) and issubclass(factory, ImageFile.StubImageFile)), suffix


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    inside, outside = touch(tmp_path / "data", "a/1.png"), touch(tmp_path / "elsewhere", "2.png", "deep/3.png")
    (inside / "b").symlink_to(outside)
    (inside / "again").symlink_to(outside / "deep")
    (inside / "a" / "circle").symlink_to(inside)
    (inside / "4.png").symlink_to(outside / "2.png")
    (inside / "broken.png").symlink_to(tmp_path / "nowhere")
    (inside / "self.png").symlink_to(inside / "self.png")
    skipped: Counter[str] = Counter()
    assert found(inside, skipped) == ["4.png", "a/1.png", "again/3.png", "b/2.png"]
    assert skipped == {"folder linked twice": 2, "broken link": 2}


def test_classes_come_in_natural_order(tmp_path: Path) -> None:
    for name in ("10", "9", "1", "12", "2", "cat 10", "cat 9", "B", "a", "01", ".git"):
        (tmp_path / name).mkdir()
    skipped: Counter[str] = Counter()
    touch(tmp_path, "labels.csv", "a.png")
    names = list(class_folders(tmp_path, skipped))
    assert names == ["01", "1", "2", "9", "10", "12", "B", "a", "cat 9", "cat 10"]
    assert skipped == {"hidden": 1, ".csv beside the class folders": 1, ".png beside the class folders": 1}


def test_class_names_are_compared_in_one_spelling(tmp_path: Path) -> None:
    (tmp_path / "caf\u00e9").mkdir()  # as Linux writes it
    assert list(class_folders(tmp_path, Counter())) == ["caf\u00e9"] == [class_name("cafe\u0301")]
    (tmp_path / "cafe\u0301").mkdir()  # as macOS writes it
    with pytest.raises(UserError, match=r"a name of its own .* found caf.* twice, in two Unicode spellings"):
        class_folders(tmp_path, Counter())


def test_names_that_are_no_text(tmp_path: Path) -> None:
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/c\xff"))).mkdir()
    with pytest.raises(UserError, match=r"name in UTF-8 but found c\\xff; rename it"):
        class_folders(tmp_path, Counter())
    bad = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xfe.png"))
    bad.write_bytes(b"no picture")
    with pytest.raises(UserError) as told:
        read_picture(bad, PictureForm(3, 4, 4, "crop"))
    str(told.value).encode()  # a terminal can show it
    assert "\\xfe.png" in str(told.value)
    Image.new("RGB", (4, 4)).save(bad)
    assert read_picture(bad, PictureForm(3, 4, 4, "crop")).shape == (3, 4, 4)
