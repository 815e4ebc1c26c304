"""Draw a folder of pictures to try things out with: leaves of five trees, in the formats that real folders hold."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Radius = Callable[[float], float]  # of the outline, at an angle from -pi to pi; 0 is the tip

OUTLINES: dict[str, Radius] = {
    "birch": lambda angle: 0.75 - 0.3 * abs(math.sin(angle)) ** 0.7 + 0.25 * math.exp(-8 * angle**2),
    "ginkgo": lambda angle: (0.9 if abs(angle) < 1.2 else 0.15) * (1 - 0.6 * math.exp(-90 * angle**2)),
    "maple": lambda angle: 0.35 + 0.6 * abs(math.cos(2.5 * angle)) ** 1.5,
    "oak": lambda angle: (0.5 + 0.15 * math.cos(9 * angle)) / (0.55 + 0.45 * abs(math.sin(angle))),
    "willow": lambda angle: 0.14 / math.sqrt(math.sin(angle) ** 2 + 0.02 * math.cos(angle) ** 2),
}
FORMATS = ("jpg", "jpg", "jpg", "png", "webp")


def draw_leaves(directory: Path, count: int, seed: int = 0) -> None:
    """Write pictures to `directory/<tree>/`.

    Args:
        directory: Is made.
        count: Pictures of each tree.
        seed: Another one draws other pictures.
    """
    for number, (tree, outline) in enumerate(OUTLINES.items()):
        (directory / tree).mkdir(parents=True)
        for index in range(count):
            image = leaf(outline, np.random.default_rng([seed, number, index]))
            image.save(directory / tree / f"{index:03}.{FORMATS[index % len(FORMATS)]}")


def leaf(outline: Radius, random: np.random.Generator) -> Image.Image:
    """A picture of 90 to 320 pixels of a leaf that lies anywhere, on ground of any colour."""
    width, height = (int(side) for side in random.integers(90, 320, 2))
    ground = random.integers(40, 220, 3)
    noise = random.normal(0, 25, (height, width, 3))
    image = Image.fromarray((ground + noise).clip(0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(1))
    size = min(width, height) * random.uniform(0.35, 0.5)
    turned, squeezed = random.uniform(-math.pi, math.pi), random.uniform(0.85, 1.15)
    center = np.array([width, height]) / 2 + random.normal(0, 0.04, 2) * min(width, height)
    angles = np.linspace(-math.pi, math.pi, 180, endpoint=False)
    radii = np.array([outline(angle) for angle in angles]) * (1 + random.normal(0, 0.02, len(angles)))
    points = np.stack([radii * np.cos(angles), squeezed * radii * np.sin(angles)])
    rotation = np.array([[math.cos(turned), -math.sin(turned)], [math.sin(turned), math.cos(turned)]])
    around = (center[:, None] + size * rotation @ points).T
    color = tuple(int(value) for value in random.uniform((40, 90, 10), (210, 190, 70)))
    draw = ImageDraw.Draw(image)
    draw.polygon([tuple(point) for point in around], fill=color)
    tip, stalk = (center + size * rotation @ (length, 0) for length in (0.6, -1.0))
    draw.line([tuple(stalk), tuple(tip)], fill=tuple(value // 2 for value in color), width=2)
    return image
