"""Decoding: size, channels, orientation and bit depth of a picture, whatever its file says."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from image_classifier.data.pictures import Fit, PictureForm, find_pictures, read_picture, read_pictures
from image_classifier.errors import UserError


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


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_every_colour_mode_is_read(tmp_path: Path, mode: str) -> None:
    Image.new("RGB", (9, 9), "white").convert(mode).save(path := tmp_path / "white.tiff")
    for channels in (1, 3):
        image = read_picture(path, PictureForm(channels, 4, 4, "crop"))
        assert image.shape == (channels, 4, 4) and image.min() >= 254


def test_sixteen_bits_are_scaled_not_cut_off(tmp_path: Path) -> None:
    pixels = np.array([[0, 256, 25_600, 65_535]] * 4, dtype=np.uint16)
    image = read_picture(save(tmp_path / "deep.png", pixels), PictureForm(1, 4, 4, "crop"))
    assert image[0, 0].tolist() == [0, 1, 100, 255]


def test_camera_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3  # turned by 180 degrees
    pixels = np.zeros((64, 64), dtype=np.uint8)
    pixels[:32] = 255
    image = read_picture(save(tmp_path / "turned.jpg", pixels, exif=exif), PictureForm(1, 8, 8, "crop"))
    assert image[0, 1, 4] < 50 and image[0, 6, 4] > 200


@pytest.mark.parametrize("content", [b"", b"no picture", "cut"])
def test_unreadable_file_is_named(tmp_path: Path, content: bytes | str) -> None:
    path = save(tmp_path / "bad.png", np.random.default_rng(0).integers(256, size=(50, 50, 3), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:2000] if isinstance(content, str) else content)
    form = PictureForm(3, 8, 8, "crop")
    with pytest.raises(UserError, match=r"expected a picture but found .*bad\.png"):
        read_picture(path, form)
    good = save(tmp_path / "good.png", np.zeros((5, 5), dtype=np.uint8))
    with pytest.raises(UserError, match=r"bad\.png"):
        read_pictures((good, path, good), form)


def test_pictures_are_found_below_a_directory_and_hidden_ones_left_out(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "deep/er/c.webp", ".hidden/d.png", ".e.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [path.relative_to(tmp_path).as_posix() for path in find_pictures(tmp_path)] == [
        "a.JPG",
        "b.png",
        "deep/er/c.webp",
    ]
