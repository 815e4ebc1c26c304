"""Picture files: finding them, and decoding them to the shape that a network takes. Many at once: reading.py."""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageFile, ImageOps
from PIL.TiffImagePlugin import SAMPLEFORMAT
from torch import Tensor

from image_classifier.engine.errors import UserError

Fit = Literal["crop", "stretch", "pad"]
Background = Literal["white", "black", "mean"]

UNDECODABLE = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}  # Pillow tells what they are; Ghostscript draws EPS
GREY_MODES = ("1", "L", "LA", "La", "I", "F")  # and I;16*


class PictureForm(NamedTuple):
    """What a decoded picture looks like."""

    channels: int  # 1 (grey) or 3 (RGB)
    height: int
    width: int
    fit: Fit  # crop: scale the shorter side, keep the centre; pad: scale the longer side; stretch: change proportions
    background: tuple[int, ...] = (
        255,
        255,
        255,
    )  # per channel, 0 to 255: what shows through, and beside padded pictures

    @property
    def nbytes(self) -> int:
        """Memory of a picture."""
        return self.channels * self.height * self.width

    @classmethod
    def make(
        cls, image_shape: Sequence[int], fit: Fit = "crop", background: Background = "white", mean: Sequence[float] = ()
    ) -> "PictureForm":
        """The form for a network.

        Args:
            image_shape: Channels, height and width.
            fit: As the field.
            background: "white", "black", or "mean" for the mean of the normalisation.
            mean: That mean per channel, 0 to 1.

        Raises:
            UserError: There are neither 1 nor 3 channels, or the background is unknown.
        """
        channels, height, width = image_shape
        if channels not in (1, 3):
            raise UserError(f"expected pictures of 1 (grey) or 3 (RGB) channels but found data.channels={channels}")
        colours = {
            "white": (255,) * channels,
            "black": (0,) * channels,
            "mean": tuple(round(255 * value) for value in mean),
        }
        if background not in colours:
            raise UserError(
                f"expected data.background to be one of {', '.join(colours)} but found {background!r}; "
                "for example data.background=white"
            )
        return cls(channels, height, width, fit, colours[background])

    @classmethod
    def from_recipe(cls, recipe: Mapping[str, Any]) -> "PictureForm":
        """The form in which a checkpoint's network was shown pictures; its recipe may be of any data set."""
        data = recipe["data"]
        return cls.make(recipe["image_shape"], data.get("fit", "crop"), data.get("background", "white"), recipe["mean"])


@lru_cache(maxsize=1)
def picture_suffixes() -> frozenset[str]:
    """Suffixes, in lower case, of the files that Pillow can decode."""
    suffixes = Image.registered_extensions()  # loads Pillow's plug-ins, which fills Image.OPEN
    decodable = (Image.OPEN.keys() | {"MPO"}) - UNDECODABLE  # the plug-in for JPEG opens MPO too
    return frozenset(suffix for suffix, name in suffixes.items() if name in decodable)


def find_pictures(directory: Path, skipped: Counter[str] | None = None) -> list[Path]:
    """All picture files below a directory, sorted; links to folders are followed, each folder once.

    Args:
        directory: Where to look.
        skipped: Counts what is left out: by suffix, "hidden", "broken link" or "folder linked twice".
    """
    skipped = Counter() if skipped is None else skipped
    found: list[Path] = []
    visited: set[tuple[int, int]] = set()
    folders = [directory]
    for folder in folders:
        status = folder.stat()
        if (status.st_dev, status.st_ino) in visited:
            skipped["folder linked twice"] += 1
            continue
        visited.add((status.st_dev, status.st_ino))
        for path in sorted(folder.iterdir()):
            if path.name.startswith("."):
                skipped["hidden"] += 1
            elif path.is_dir():
                folders.append(path)
            elif not path.is_file():
                skipped["broken link" if path.is_symlink() else "no file"] += 1
            elif path.suffix.lower() in picture_suffixes():
                found.append(path)
            else:
                skipped[path.suffix.lower() or "without suffix"] += 1
    return sorted(found)


def describe_skipped(skipped: Counter[str]) -> str:
    """What `find_pictures` left out, in words; empty when nothing was."""
    if not skipped:
        return ""
    reasons = ", ".join(f"{count} {reason}" for reason, count in skipped.most_common())
    return f"skipped {skipped.total()} file{'s' * (skipped.total() > 1)} ({reasons})"


def class_folders(folder: Path, skipped: Counter[str]) -> dict[str, Path]:
    """The folders of the classes in natural order (2 before 10), by class name.

    Args:
        folder: Where they lie.
        skipped: Counts what lies beside them.

    Raises:
        UserError: There is no such folder, or two class names are the same or one is no text.
    """
    if not folder.is_dir():
        raise UserError(f"expected a directory of pictures but found none at {folder}; name it: data.root=DIR")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir(), key=lambda path: natural(path.name)):
        if path.name.startswith("."):
            skipped["hidden"] += 1
        elif not path.is_dir():
            skipped[f"{path.suffix.lower() or 'without suffix'} beside the class folders"] += 1
        else:
            if (name := class_name(path.name)) in found:
                raise UserError(
                    f"expected a name of its own for each class folder in {folder} but found {name} twice, "
                    "in two Unicode spellings; put their pictures into one folder"
                )
            found[name] = path
    return found


def class_name(folder: str) -> str:
    """The name of a class folder in the one spelling (NFC) in which names of other machines compare equal.

    Raises:
        UserError: Its bytes are no UTF-8, so that no file could hold the name.
    """
    try:
        folder.encode()
    except UnicodeEncodeError:
        raise UserError(
            f"expected a class folder with a name in UTF-8 but found {path_text(folder)}; rename it"
        ) from None
    return unicodedata.normalize("NFC", folder)


def natural(name: str) -> tuple[list[Any], str]:
    """A key that sorts numbers inside names by their value."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)], name


def path_text(path: Path | str) -> str:
    """A path whose bytes need not be text."""
    return os.fsencode(path).decode(errors="backslashreplace")


class Facts(NamedTuple):
    """What is known of a picture besides its pixels."""

    width: int  # as stored, before EXIF turns it
    height: int
    mode: str  # Pillow's: RGB, L, CMYK, ...


def read_picture(path: Path, form: PictureForm) -> Tensor:
    """Decode a picture, of animations and documents the first one, upright as its EXIF data says.

    Returns:
        (C, H, W) uint8.

    Raises:
        UserError: The file is no picture, is cut off or cannot be read.
    """
    try:
        return decode(path.read_bytes(), form)[0]
    except Exception as error:  # Pillow's plug-ins raise whatever a damaged file leads them to
        raise UserError(
            f"expected a picture but found {path_text(path)}: {reason(error)}; repair or remove the file"
        ) from None


def reason(error: Exception) -> str:
    """Why a picture could not be decoded, in a line that says the same wherever the file lies."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "cannot identify image file"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def decode(content: bytes | Image.Image, form: PictureForm) -> tuple[Tensor, Facts]:
    """Decode a picture to a form.

    Args:
        content: A picture file's bytes, or an image of Pillow's.
        form: What comes out.

    Returns:
        (C, H, W) uint8, and what the picture was.

    Raises:
        Exception: Whatever Pillow's plug-ins raise for damaged content.
    """
    if isinstance(content, Image.Image):
        facts = Facts(*content.size, content.mode)
        return to_tensor(fitted(flatten(content, form.channels, form.background), form)), facts
    with Image.open(BytesIO(content)) as file:
        facts = Facts(*file.size, file.mode)
        scale_transparent_value(file)
        # Large JPEGs are decoded at a smaller scale: both sides alike, because EXIF may swap them.
        file.draft("L" if form.channels == 1 else "RGB", (2 * max(form.width, form.height),) * 2)
        file.load()
        turn_upright(file)
        return to_tensor(fitted(flatten(file, form.channels, form.background), form)), facts


def check(content: bytes | Image.Image) -> Facts:
    """Decode a picture at the smallest scale, only to see that it can be.

    Raises:
        Exception: As `decode`.
    """
    if isinstance(content, Image.Image):
        return Facts(*content.size, content.mode)
    with Image.open(BytesIO(content)) as file:
        facts = Facts(*file.size, file.mode)
        file.draft(file.mode, (1, 1))
        file.load()
    return facts


def is_grey(mode: str) -> bool:
    """Whether pictures of one of Pillow's modes have no colours."""
    return mode in GREY_MODES or mode.startswith("I;16")


def fitted(image: Image.Image, form: PictureForm) -> Image.Image:
    """Bring an image of mode L or RGB to the size of a form."""
    size = (form.width, form.height)
    if form.fit == "crop":
        return ImageOps.fit(image, size)
    if form.fit == "pad":
        return ImageOps.pad(image, size, color=form.background if form.channels == 3 else form.background[0])
    return image.resize(size)


def to_tensor(image: Image.Image) -> Tensor:
    """(C, H, W) uint8 of an image of mode L or RGB."""
    pixels = torch.from_numpy(np.array(image))
    return pixels.unsqueeze(0) if pixels.ndim == 2 else pixels.permute(2, 0, 1).contiguous()


def scale_transparent_value(file: ImageFile.ImageFile) -> None:
    """Bring a PNG's transparent value to the 8 bits to which Pillow brings the pixels but not this value."""
    transparent = file.info.get("transparency")
    if file.format != "PNG" or transparent is None or not file.tile:
        return
    raw_mode = file.tile[0][3]
    if raw_mode in ("L;2", "L;4"):
        file.info["transparency"] = transparent * {"L;2": 85, "L;4": 17}[raw_mode]
    elif raw_mode == "RGB;16B":
        file.info["transparency"] = tuple(value >> 8 for value in transparent)


def turn_upright(image: Image.Image) -> None:
    """Apply the orientation in the EXIF data; where they are damaged, the picture stays as it is."""
    try:
        image.getexif()
    except Exception:  # as above
        return
    ImageOps.exif_transpose(image, in_place=True)


def flatten(image: Image.Image, channels: int, background: tuple[int, ...]) -> Image.Image:
    """Bring an image of any of Pillow's modes to 8 bits, and put it onto a background where it is transparent.

    Args:
        image: A loaded image. How its deep pixels are scaled: `deep_pixels`, `to_eight_bits`.
        channels: 1 (grey) or 3 (RGB).
        background: Colour per channel, 0 to 255.

    Returns:
        An image of mode L or RGB.
    """
    mode = "L" if channels == 1 else "RGB"
    alpha: Image.Image | None = None
    if image.mode.startswith(("I", "F")):
        values, white = deep_pixels(image)
        if "transparency" in image.info:
            alpha = Image.fromarray((values != image.info["transparency"]).astype(np.uint8) * 255)
        image = Image.fromarray(to_eight_bits(values, white))
    elif image.has_transparency_data:
        image = image.convert("LA") if image.mode == "La" else image  # Pillow knows no shorter way
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
    elif image.mode == "LAB":
        image = image.convert("RGB")  # nor here
    image = image.convert(mode)
    if alpha is None:
        return image
    canvas = Image.new(mode, image.size, background[0] if channels == 1 else background)
    canvas.paste(image, mask=alpha)
    return canvas


def deep_pixels(image: Image.Image) -> tuple[np.ndarray, float | None]:
    """The values of an image of mode I, F or I;16*, and the value of white where its mode or file format tells it."""
    values = np.asarray(image)
    if ";16" in image.mode or (image.format == "PPM" and image.mode == "I"):
        return values, 65535
    if image.format == "TIFF" and image.mode == "I" and image.tag_v2.get(SAMPLEFORMAT, (1,))[0] == 1:  # type: ignore[attr-defined]
        values = values.view(np.uint32)  # Pillow reads unsigned values as signed ones
    return values, None


def to_eight_bits(values: np.ndarray, white: float | None = None) -> np.ndarray:
    """Scale deep pixels to 0 to 255.

    Black is 0. White, where it is not given, is 1 for floats below 2, else the smallest of 255 and 65535 that no
    value exceeds. Where that fits no picture (values are negative or beyond 65535), its lowest value is black and
    its highest is white.

    Args:
        values: (H, W) integers or floats. NaN and negative infinity come out black, infinity white.
        white: The value of white.

    Returns:
        (H, W) uint8, rounded.
    """
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    if white is not None:
        low, high = 0.0, white
    elif low >= 0 and high <= 65535:
        low, high = 0.0, 1.0 if values.dtype.kind == "f" and high < 2 else 255.0 if high <= 255 else 65535.0
    scaled = (values.astype(np.float32) - low) * (255 / ((high - low) or 1))
    return np.rint(np.nan_to_num(scaled, nan=0.0).clip(0, 255)).astype(np.uint8)


def height_and_width(image_size: int | Sequence[int]) -> tuple[int, int]:
    """Height and width of `data.image_size`, which is one number or the two."""
    if isinstance(image_size, int):
        return image_size, image_size
    height, width = image_size
    return height, width
