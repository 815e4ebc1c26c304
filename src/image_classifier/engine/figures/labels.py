"""Class names as labels of a picture: cut to length, told apart, and in a font that has their characters."""

import warnings
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import matplotlib as mpl
from matplotlib.font_manager import fontManager, get_font

LABEL_LENGTH = 24  # characters; longer class names are cut in the middle
BASE_FONT = str(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")
NO_GLYPH = "\N{WHITE SQUARE}"


def tick_labels(class_names: Sequence[str], positions: Sequence[int] | None = None) -> list[tuple[str, str]]:
    """What to write beside rows and columns.

    Args:
        class_names: K names of any length in any script.
        positions: The N classes that are shown; None for all.

    Returns:
        N pairs of a label and the path of the font to write it in. Where no installed font has a character, a square
        stands for it; such a label, an empty one, and those that look alike begin with the position of the class.
    """
    if positions is None:
        positions = range(len(class_names))
    names = [class_names[position] for position in positions]
    fonts = [font_for(name) for name in names]
    if unreadable := [name for name, font in zip(names, fonts, strict=True) if font is None]:
        warnings.warn(
            f"no installed font has every character of {', '.join(map(repr, unreadable[:3]))}; pictures show squares "
            "and the position of the class instead (a font package such as fonts-noto-cjk helps)",
            stacklevel=2,
        )
    labels = [
        shorten(name if font else "".join(c if has_glyphs(BASE_FONT, c) else NO_GLYPH for c in name))
        for name, font in zip(names, fonts, strict=True)
    ]
    appearances = Counter(labels)
    return [
        (label if font and label.strip() and appearances[label] == 1 else f"{position}: {label}", font or BASE_FONT)
        for position, label, font in zip(positions, labels, fonts, strict=True)
    ]


def shorten(name: str) -> str:
    """One line of at most LABEL_LENGTH characters, cut in the middle."""
    line = "".join(character if character.isprintable() else " " for character in name)
    if len(line) <= LABEL_LENGTH:
        return line
    half = (LABEL_LENGTH - 1) // 2
    return f"{line[:half]}\N{HORIZONTAL ELLIPSIS}{line[-half:]}"


@lru_cache(maxsize=10_000)
def font_for(name: str) -> str | None:
    """Path of a font that has every printable character of a name: the base font if it can be; None if none has."""
    text = "".join(sorted({character for character in name if character.isprintable()}))
    if has_glyphs(BASE_FONT, text):
        return BASE_FONT
    others = (font.fname for font in fontManager.ttflist if "last resort" not in font.name.lower())
    return next((path for path in others if has_glyphs(path, text)), None)


def has_glyphs(font: str, text: str) -> bool:
    try:
        return all(get_font(font).get_char_index(ord(character)) for character in text)
    except (OSError, RuntimeError):  # gone since matplotlib listed it, or a bitmap font that it cannot draw
        return False
