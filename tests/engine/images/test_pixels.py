"""Pixels of every mode, bit depth and file format, against values that numpy or a hand computed."""

import colorsys
import io
import random
import struct
import warnings
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from image_classifier.data.datamodule import ImageDataModule
from image_classifier.engine.errors import UserError
from image_classifier.engine.images.pictures import (
    Background,
    Fit,
    PictureForm,
    find_pictures,
    flatten,
    picture_suffixes,
    read_picture,
    to_eight_bits,
)

HEIGHT, WIDTH = 5, 7
MEAN = (0.2, 0.4, 0.6)
BACKGROUNDS = {"white": (255, 255, 255), "black": (0, 0, 0), "mean": (51, 102, 153)}


def noise(channels: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(256, size=(HEIGHT, WIDTH, channels), dtype=np.uint8)


def image_of(mode: str, values: np.ndarray) -> Image.Image:
    """An image whose memory holds these bytes."""
    return Image.frombytes(mode, (WIDTH, HEIGHT), values.tobytes())


PALETTE = np.random.default_rng(9).integers(256, size=(256, 3), dtype=np.uint8)


def with_palette(mode: str, values: np.ndarray) -> Image.Image:
    image = image_of(mode, values)
    image.putpalette(PALETTE.tobytes())
    return image


def transparent(image: Image.Image, value: object) -> Image.Image:
    image.info["transparency"] = value
    return image


def premultiplied(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return np.concatenate([np.rint(colours * (alpha / 255.0)), alpha], axis=2).astype(np.uint8)


def deep(top: int, dtype: str) -> np.ndarray:
    """Values from 0 to `top`; both occur."""
    values = np.random.default_rng(3).integers(top, endpoint=True, size=(HEIGHT, WIDTH, 1))
    values[0, :2, 0] = 0, top
    return values.astype(dtype)


def make_cases() -> dict[str, tuple[Image.Image, np.ndarray, np.ndarray | int]]:
    """For each mode, an image, its (H, W, 1 or 3) colours and its (H, W, 1) alpha, both from 0 to 255."""
    light, alpha, colours, four = noise(1), noise(1, seed=1), noise(3), noise(4)
    looked_up, alphas = PALETTE[light[..., 0]], np.random.default_rng(5).integers(256, size=256, dtype=np.uint8)
    chosen = int(light[2, 3, 0])
    ink = four / 255.0
    y, cb, cr = np.moveaxis(np.array([[76, 85, 255], [150, 100, 90], [90, 140, 150]])[light[..., 0] % 3], 2, 0)
    ycc = np.stack([y, cb, cr], axis=2).astype(np.uint8)
    from_ycc = np.stack([0 * y, -0.344136 * (cb - 128), 1.772 * (cb - 128)], axis=2)
    from_ycc += y[..., None] + np.stack([1.402 * (cr - 128), -0.714136 * (cr - 128), 0 * y], axis=2)
    hsv = [colorsys.hsv_to_rgb(*pixel) for pixel in (colours.reshape(-1, 3) / 255.0).tolist()]
    # Black, grey, white and the red of sRGB in CIELAB (D50): L* of 0, 53.6, 100 and 54.3; a* and b* as signed bytes.
    lab = np.array([[0, 0, 0], [137, 0, 0], [255, 0, 0], [138, 81, 70]], np.uint8)[light[..., 0] % 4]
    from_lab = np.array([[0, 0, 0], [128, 128, 128], [255, 255, 255], [255, 0, 0]])[light[..., 0] % 4]
    hounsfield = deep(4000, "<i4") - 1000
    unit = deep(65535, "<f4") / np.float32(65535)
    holes = unit.copy()
    holes[0, 2:5, 0] = np.nan, np.inf, -np.inf
    filled = unit * 255
    filled[0, 2:5, 0] = 0, 255, 0
    cases: dict[str, tuple[Image.Image, np.ndarray, np.ndarray | int]] = {
        "1": (Image.fromarray(light[..., 0] > 127), (light > 127) * 255, 255),
        "L": (image_of("L", light), light, 255),
        "L, one transparent": (transparent(image_of("L", light), chosen), light, (light != chosen) * 255),
        "LA": (image_of("LA", np.concatenate([light, alpha], axis=2)), light, alpha),
        "La": (image_of("La", premultiplied(light, alpha)), light, alpha),
        "P": (with_palette("P", light), looked_up, 255),
        "P, one transparent": (transparent(with_palette("P", light), chosen), looked_up, (light != chosen) * 255),
        "P, alphas": (transparent(with_palette("P", light), alphas.tobytes()), looked_up, alphas[light]),
        "PA": (with_palette("PA", np.concatenate([light, alpha], axis=2)), looked_up, alpha),
        "RGB": (image_of("RGB", colours), colours, 255),
        "RGB, one transparent": (
            transparent(image_of("RGB", colours), tuple(colours[1, 1].tolist())),
            colours,
            (colours != colours[1, 1]).any(axis=2, keepdims=True) * 255,
        ),
        "RGBA": (image_of("RGBA", four), four[..., :3], four[..., 3:]),
        "RGBa": (image_of("RGBa", premultiplied(colours, alpha)), colours, alpha),
        "RGBX": (image_of("RGBX", four), four[..., :3], 255),
        "CMYK": (image_of("CMYK", four), 255 * (1 - ink[..., :3]) * (1 - ink[..., 3:]), 255),
        "YCbCr": (image_of("YCbCr", ycc), from_ycc.clip(0, 255), 255),
        "HSV": (image_of("HSV", colours), np.array(hsv).reshape(HEIGHT, WIDTH, 3) * 255, 255),
        "LAB": (image_of("LAB", lab), from_lab, 255),
        "I, 8 bits": (image_of("I", deep(255, "<i4")), deep(255, "<i4"), 255),
        "I, 16 bits": (image_of("I", deep(65535, "<i4")), deep(65535, "<i4") / 257, 255),
        "I, 31 bits": (image_of("I", deep(2**31 - 1, "<i4")), deep(2**31 - 1, "<i4") / (2**31 - 1) * 255, 255),
        "I, negative": (image_of("I", hounsfield), (hounsfield + 1000) / 4000 * 255, 255),
        "F, to 1": (image_of("F", unit), unit * 255, 255),
        "F, to 255": (image_of("F", unit * 255), unit * 255, 255),
        "F, to 65535": (image_of("F", unit * 65535), unit * 255, 255),
        "F, -1 to 1": (image_of("F", unit * 2 - 1), unit * 255, 255),
        "F, not finite": (image_of("F", holes), filled, 255),
    }
    for mode, dtype in {"I;16": "<u2", "I;16L": "<u2", "I;16B": ">u2", "I;16N": "=u2"}.items():
        cases[mode] = image_of(mode, deep(65535, dtype)), deep(65535, dtype) / 257, 255
    return cases


CASES = make_cases()


def test_cases_are_all_modes_of_pillow() -> None:
    assert {image.mode for image, _, _ in CASES.values()} == set(Image.MODES)


@pytest.mark.parametrize("background", BACKGROUNDS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", CASES)
def test_every_mode_comes_to_eight_bits(name: str, channels: int, background: Background) -> None:
    image, colours, alpha = CASES[name]
    form = PictureForm.make((channels, 4, 4), background=background, mean=MEAN[:channels])
    flat = flatten(image, channels, form.background)
    assert flat.mode == ("L" if channels == 1 else "RGB")
    expected = np.broadcast_to(colours, (HEIGHT, WIDTH, 3)).astype(float)
    if channels == 1:
        expected = expected @ np.array([0.299, 0.587, 0.114]).reshape(3, 1)  # ITU-R BT.601
    opacity = np.asarray(alpha) / 255
    expected = expected * opacity + np.array(BACKGROUNDS[background][:channels]) * (1 - opacity)
    # Pillow rounds after each of up to three steps; hue is an angle in 256 steps, and CIELAB's are coarse.
    tolerance = {"HSV": 3.1, "LAB": 5.1}.get(image.mode, 1.6)
    assert np.abs(np.asarray(flat).reshape(expected.shape) - expected).max() <= tolerance


def test_black_drawing_on_transparent_ground_is_seen(tmp_path: Path) -> None:
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[:, 4:, 3] = 255  # right half: black; left half: transparent black
    Image.fromarray(pixels).save(tmp_path / "icon.png")
    for channels in (1, 3):
        image = read_picture(tmp_path / "icon.png", PictureForm(channels, 8, 8, "crop"))
        assert image[:, 0, 0].tolist() == [255] * channels and image[:, 0, 7].tolist() == [0] * channels


def png(width: int, depth: int, colour: int, row: bytes, transparent: bytes) -> bytes:
    """A picture of one row (https://www.w3.org/TR/png), with a transparent value or palette."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, depth, colour, 0, 0, 0))
    palette = chunk(b"PLTE", bytes([10, 20, 30, 40, 50, 60])) if colour == 3 else b""
    parts = (header, palette, chunk(b"tRNS", transparent), chunk(b"IDAT", zlib.compress(b"\0" + row)))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "expected"),  # left pixel transparent: background 7, 8, 9
    [
        (png(2, 1, 0, b"\x40", struct.pack(">H", 0)), [[7, 8, 9], [255] * 3]),
        (png(2, 2, 0, b"\x60", struct.pack(">H", 1)), [[7, 8, 9], [170] * 3]),
        (png(2, 4, 0, b"\x3c", struct.pack(">H", 3)), [[7, 8, 9], [204] * 3]),
        (png(2, 8, 0, b"\x03\xc8", struct.pack(">H", 3)), [[7, 8, 9], [200] * 3]),
        (png(2, 16, 0, struct.pack(">HH", 300, 51400), struct.pack(">H", 300)), [[7, 8, 9], [200] * 3]),
        (png(2, 8, 2, bytes([1, 2, 3, 4, 5, 6]), struct.pack(">HHH", 1, 2, 3)), [[7, 8, 9], [4, 5, 6]]),
        (
            png(2, 16, 2, struct.pack(">6H", 300, 600, 900, 1024, 1280, 1536), struct.pack(">HHH", 300, 600, 900)),
            [[7, 8, 9], [4, 5, 6]],
        ),
        (png(2, 8, 3, b"\0\1", b"\0"), [[7, 8, 9], [40, 50, 60]]),
        (png(2, 8, 3, b"\0\1", b"\0\x80"), [[7, 8, 9], [24, 29, 35]]),
    ],
    ids=["L1", "L2", "L4", "L8", "L16", "RGB8", "RGB16", "P", "P-alphas"],
)
def test_transparent_value_of_a_png(tmp_path: Path, content: bytes, expected: list[list[int]]) -> None:
    (path := tmp_path / "a.png").write_bytes(content)
    image = read_picture(path, PictureForm(3, 1, 2, "stretch", (7, 8, 9)))
    assert (image[:, 0].T - torch.tensor(expected)).abs().max() <= 1


def tiff(values: np.ndarray) -> bytes:
    Image.fromarray(values).save(file := io.BytesIO(), "TIFF")
    return file.getvalue()


def unsigned(content: bytes) -> bytes:
    """A TIFF whose tag 339 (SampleFormat) says unsigned instead of signed; Pillow writes no such file."""
    signed = struct.pack("<HHII", 339, 3, 1, 2)
    assert signed in content
    return content.replace(signed, struct.pack("<HHII", 339, 3, 1, 1))


STEPS = np.arange(16).reshape(4, 4)  # 0 to 15


@pytest.mark.parametrize(
    ("suffix", "content", "expected"),
    [
        (".pgm", b"P5 4 4 65535\n" + (STEPS * 4369).astype(">u2").tobytes(), STEPS * 17),
        (".pgm", b"P5 4 4 65535\n" + (STEPS * 17).astype(">u2").tobytes(), STEPS * 17 / 257),  # dark stays dark
        (".pgm", b"P5 4 4 1023\n" + (STEPS * 68).astype(">u2").tobytes(), STEPS * 68 / 1023 * 255),
        (".pgm", b"P2 4 4 15\n" + " ".join(map(str, STEPS.flatten())).encode(), STEPS * 17),
        (".pfm", b"Pf\n4 4\n-1.0\n" + (STEPS[::-1] / 15).astype("<f4").tobytes(), STEPS * 17),  # bottom row first
        (".tif", tiff((STEPS * 4369).astype(np.uint16)), STEPS * 17),
        (".tif", tiff((STEPS * 17).astype(np.int32)), STEPS * 17),
        (".tif", tiff((STEPS * 4369).astype(np.int32)), STEPS * 17),
        (".tif", tiff((STEPS * 143165576).astype(np.int32)), STEPS * 17),
        (".tif", unsigned(tiff((STEPS * 286331153).astype(np.uint32).view(np.int32))), STEPS * 17),
        (".tif", tiff((STEPS / 15).astype(np.float32)), STEPS * 17),
        (".tif", tiff((STEPS * 17).astype(np.float32)), STEPS * 17),
        (".tif", tiff((STEPS / 7.5 - 1).astype(np.float32)), STEPS * 17),
    ],
    ids=["PGM16", "PGM16-dark", "PGM10", "PGM4", "PFM", "u16", "i8", "i16", "i31", "u32", "f1", "f255", "f-1..1"],
)
def test_deep_files(tmp_path: Path, suffix: str, content: bytes, expected: np.ndarray) -> None:
    (path := tmp_path / f"a{suffix}").write_bytes(content)
    image = read_picture(path, PictureForm(1, 4, 4, "crop"))
    assert np.abs(image[0].numpy() - expected).max() <= 0.51


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0, 77.0, 255.0, 65535.0])
@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_even_pictures(dtype: type, value: float) -> None:
    scaled = to_eight_bits(np.full((2, 2), value, dtype))
    stored = float(np.array(value, dtype))
    white = 1 if dtype is np.float32 and stored < 2 else 255 if stored <= 255 else 65535
    assert scaled.tolist() == [[round(stored / white * 255 + 1e-6)] * 2] * 2
    assert to_eight_bits(np.full((2, 2), -value - 1, dtype)).tolist() == [[0] * 2] * 2
    assert to_eight_bits(np.full((2, 2), np.nan, np.float32)).tolist() == [[0] * 2] * 2


TURNED: dict[int, Callable[[np.ndarray], np.ndarray]] = {  # stored -> upright (TIFF 6.0, tag 274)
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: lambda stored: np.rot90(stored, 1),
}


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp", ".avif"])
def test_orientation_is_applied(tmp_path: Path, suffix: str, orientation: int) -> None:
    stored = np.kron(noise(3), np.ones((40, 40, 1), np.uint8))  # 200 x 280: large enough for JPEG's draft mode
    exif = Image.Exif()
    exif[0x0112] = orientation
    settings = {".jpg": {"quality": 98, "subsampling": 0}, ".webp": {"lossless": True}, ".avif": {"quality": 98}}
    Image.fromarray(stored).save(tmp_path / f"a{suffix}", exif=exif, **settings.get(suffix, {}))  # type: ignore[arg-type]
    upright = TURNED[orientation](noise(3))
    height, width = upright.shape[:2]
    image = read_picture(tmp_path / f"a{suffix}", PictureForm(3, height * 3, width * 3, "stretch"))
    assert np.abs(image[:, 1::3, 1::3].permute(1, 2, 0).numpy().astype(int) - upright).max() <= 16


@pytest.mark.parametrize(("height", "width"), [(128, 16), (16, 128), (64, 64)])
@pytest.mark.parametrize("orientation", [1, 6])
def test_draft_mode_leaves_enough_pixels(tmp_path: Path, height: int, width: int, orientation: int) -> None:
    stripes = np.zeros((height * 2, width * 2), np.uint8)
    stripes[np.arange(height * 2) // 2 % 2 == 0] = 255
    upright = np.kron(stripes, np.ones((8, 8), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = upright if orientation == 1 else np.rot90(upright, 1)
    Image.fromarray(stored).save(path := tmp_path / "a.jpg", exif=exif, quality=95)
    image = read_picture(path, PictureForm(1, height, width, "stretch"))
    assert image[0, 0::2].min() > 200 and image[0, 1::2].max() < 55


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0"])
def test_damaged_exif_leaves_the_picture(tmp_path: Path, exif: bytes) -> None:
    for suffix in (".jpg", ".png", ".webp"):
        Image.fromarray(np.full((9, 9), 200, np.uint8)).save(path := tmp_path / f"a{suffix}", exif=exif)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert (read_picture(path, PictureForm(1, 4, 4, "crop")).int() - 200).abs().max() <= 2


def gradient() -> np.ndarray:
    """64 x 64 pixels that survive lossy formats."""
    rows, columns = np.mgrid[:64, :64]
    return np.stack([rows * 4, columns * 4, 255 - rows * 2 - columns * 2], axis=2).clip(0, 255).astype(np.uint8)


@cache
def saved_formats() -> dict[str, tuple[bytes, str]]:
    """What Pillow writes here by suffix, with the mode of what was written: as much colour as the format takes."""
    written = {}
    for suffix, name in sorted(Image.registered_extensions().items()):
        if suffix not in picture_suffixes() or name not in Image.SAVE:
            continue
        for mode in ("RGB", "P", "L", "1"):
            file = io.BytesIO()
            try:
                Image.fromarray(gradient()).convert(mode).save(file, name)
            except (OSError, ValueError, KeyError):
                continue
            written[suffix] = file.getvalue(), mode
            break
    return written


def test_every_format_that_pillow_writes_is_read_back(tmp_path: Path) -> None:
    formats = saved_formats()
    assert len({Image.registered_extensions()[suffix] for suffix in formats}) >= 19 and len(formats) >= 35
    for suffix, (content, mode) in formats.items():
        (tmp_path / f"a{suffix}").write_bytes(content)
        original = np.asarray(Image.fromarray(gradient()).convert(mode).convert("RGB")).astype(int)
        image = read_picture(tmp_path / f"a{suffix}", PictureForm(3, 64, 64, "stretch")).permute(1, 2, 0)
        error = np.abs(image.numpy() - original)
        assert error.mean() < 6, suffix  # lossy ones; the lossless ones have 0
        if suffix in (".png", ".bmp", ".tif", ".tga", ".ppm", ".pcx", ".qoi", ".sgi", ".im", ".dds", ".jp2"):
            assert error.max() == 0, suffix
    assert {path.suffix for path in find_pictures(tmp_path)} == formats.keys()


ONE_SUFFIX_EACH = sorted({Image.registered_extensions()[suffix]: suffix for suffix in saved_formats()}.values())


@pytest.mark.parametrize("suffix", ONE_SUFFIX_EACH)
def test_damaged_files_are_told_or_read_but_never_crash(tmp_path: Path, suffix: str) -> None:
    content, _ = saved_formats()[suffix]
    lottery = random.Random(0)
    damaged = [b"", content[:1], content[:30], content[: len(content) // 2], content[:-1]]
    for _ in range(20):
        flipped = bytearray(content)
        for _ in range(3):
            flipped[lottery.randrange(min(len(content), 300))] = lottery.randrange(256)
        damaged.append(bytes(flipped))
    (path := tmp_path / f"a{suffix}").touch()
    refused = 0
    for number, data in enumerate(damaged):
        path.write_bytes(data)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                assert read_picture(path, PictureForm(3, 8, 8, "crop")).shape == (3, 8, 8)
        except UserError as error:
            refused += 1
            assert str(error).startswith(f"expected a picture but found {path}: ") and "\n" not in str(error)
        else:
            assert number > 1, "no picture in this file"
    assert refused >= 2


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("fit", ["crop", "stretch"])
@pytest.mark.parametrize(("width", "height"), [(1, 1), (10_000, 1), (1, 10_000), (3, 2)])
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_extreme_proportions(tmp_path: Path, suffix: str, width: int, height: int, fit: Fit, channels: int) -> None:
    Image.fromarray(np.full((height, width), 99, np.uint8)).save(path := tmp_path / f"a{suffix}")
    assert (read_picture(path, PictureForm(channels, 4, 6, fit)).int() - 99).abs().max() <= 1


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".tif", ".avif"])
def test_first_of_several_pictures_is_read(tmp_path: Path, suffix: str) -> None:
    frames = [Image.fromarray(np.full((8, 8), value, np.uint8)).convert("RGB") for value in (250, 120, 0)]
    frames[0].save(path := tmp_path / f"a{suffix}", save_all=True, append_images=frames[1:])
    with Image.open(path) as file:
        assert file.n_frames == 3  # type: ignore[attr-defined]
    assert (read_picture(path, PictureForm(3, 4, 4, "crop")).int() - 250).abs().max() <= 3


@pytest.mark.parametrize(
    ("settings", "background"),
    [
        ({"fit": "stretch", "background": "mean"}, (51, 102, 153)),
        ({"background": "black"}, (0, 0, 0)),
        ({"dataset": "MNIST"}, (255, 255, 255)),
    ],
)
def test_form_comes_from_a_recipe_of_any_data_set(settings: dict[str, str], background: tuple[int, ...]) -> None:
    form = PictureForm.from_recipe({"image_shape": [3, 5, 6], "mean": list(MEAN), "data": settings})
    assert form == PictureForm(3, 5, 6, settings.get("fit", "crop"), background)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("shape", "settings", "message"),
    [
        (
            (3, 4, 4),
            {"background": "red"},
            r"expected data\.background to be one of white, black, mean but found 'red'",
        ),
        ((2, 4, 4), {}, r"1 \(grey\) or 3 \(RGB\) channels but found data\.channels=2"),
    ],
)
def test_forms_that_no_picture_has_are_told(shape: tuple[int, ...], settings: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        PictureForm.make(shape, mean=MEAN, **settings)  # type: ignore[arg-type]


def test_background_is_what_the_network_is_shown(tmp_path: Path) -> None:
    """Normalised, a transparent pixel on the mean is 0."""
    Image.new("RGBA", (4, 4)).save(tmp_path / "a.png")
    module = ImageDataModule(batch_size=1, val_size=1, mean=MEAN, std=(0.5,) * 3)
    image = read_picture(tmp_path / "a.png", PictureForm.make((3, 4, 4), background="mean", mean=MEAN))
    images, _ = module.on_after_batch_transfer((image[None], torch.zeros(1)), 0)
    assert images.abs().max() < 1e-6
