import io

import numpy as np
import pytest
from PIL import Image

from image_classifier.engine.figures.png import png_bytes


@pytest.mark.parametrize("shape", [(1, 1, 3), (7, 3, 3), (300, 501, 3)])
@pytest.mark.parametrize("layout", ["contiguous", "a view"])
def test_other_readers_find_the_same_pixels(shape: tuple[int, int, int], layout: str) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    if layout == "a view":
        pixels = pixels[::-1, ::-1]
    image = Image.open(io.BytesIO(png_bytes(pixels)))
    image.verify()  # the checksums
    assert (image.format, image.mode) == ("PNG", "RGB")
    assert (np.asarray(Image.open(io.BytesIO(png_bytes(pixels)))) == pixels).all()
