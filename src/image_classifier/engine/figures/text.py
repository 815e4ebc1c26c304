"""Text in pictures that Pillow paints. What is painted is kept: the words are the same in every epoch and every job."""

import math
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

from image_classifier.engine.figures.labels import BASE_FONT

TEXT_SIZE, LABEL_SIZE, TITLE_SIZE = 11, 12, 14  # font heights in pixels
BLACK = 0, 0, 0


def paint_text(
    image: Image.Image,
    at: tuple[int, int],
    text: str,
    pixels: int,
    anchor: str,
    *,
    color: tuple[int, int, int] = BLACK,
    font: str = BASE_FONT,
) -> None:
    """Paint a line of text; `anchor` says what of it lies at the point, as in Pillow."""
    left, top, ink = text_ink(text, font, pixels, anchor)
    image.paste(color, (at[0] + left, at[1] + top), ink)


@lru_cache(maxsize=4096)
def text_ink(text: str, font: str, pixels: int, anchor: str) -> tuple[int, int, Image.Image]:
    """Where the ink begins, right of and below the anchor, and how much of it there is."""
    left, top, right, bottom = (int(edge) for edge in font_of(font, pixels).getbbox(text, anchor=anchor))
    ink = Image.new("L", (max(1, right - left), max(1, bottom - top)))
    ImageDraw.Draw(ink).text((-left, -top), text, 255, font_of(font, pixels), anchor=anchor)
    return left, top, ink


def paint_turned(image: Image.Image, text: str, font: str, degrees: int, end: tuple[int, int]) -> None:
    """Paint a text that rises to its end at a point."""
    width, turned = text_width(text, font, LABEL_SIZE), turned_ink(text, font, degrees)
    slope = math.radians(degrees)
    x = end[0] - math.cos(slope) * width / 2 - turned.width / 2
    y = end[1] + math.sin(slope) * width / 2 - turned.height / 2
    image.paste("black", (round(x), round(y)), turned)


@lru_cache(maxsize=256)
def turned_ink(text: str, font: str, degrees: int) -> Image.Image:
    width, height = text_width(text, font, LABEL_SIZE), LABEL_SIZE + 6
    ink = Image.new("L", (2 * width, 2 * height))  # at twice the size, or turning it would blur it
    ImageDraw.Draw(ink).text((0, height), text, 255, font_of(font, 2 * LABEL_SIZE), anchor="lm")
    turned = ink.rotate(degrees, Image.Resampling.BICUBIC, expand=True)
    return turned.resize((turned.width // 2, turned.height // 2), Image.Resampling.BOX)


def paint_upright(image: Image.Image, text: str, left: int, middle: int) -> None:
    """Paint a text that reads upwards."""
    ink = Image.new("L", (text_width(text, BASE_FONT, LABEL_SIZE), LABEL_SIZE + 4))
    ImageDraw.Draw(ink).text((0, ink.height // 2), text, 255, font_of(BASE_FONT, LABEL_SIZE), anchor="lm")
    turned = ink.transpose(Image.Transpose.ROTATE_90)
    image.paste("black", (left, middle - turned.height // 2), turned)


@lru_cache(maxsize=64)
def font_of(path: str, pixels: int) -> ImageFont.FreeTypeFont:
    # Only other scripts need the slower layout engine, which shapes and orders their characters.
    engine = ImageFont.Layout.BASIC if path == BASE_FONT else None
    return ImageFont.truetype(path, pixels, layout_engine=engine)


@lru_cache(maxsize=4096)
def text_width(text: str, font: str, pixels: int) -> int:
    return int(font_of(font, pixels).getlength(text)) + 1
