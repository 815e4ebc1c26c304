"""The first training images are logged as a grid and as one image, once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from image_classifier.data.synthetic import Synthetic
from image_classifier.engine.figures.image_grid import displayable, draw_image_grid
from tiny import TINY_WITH_DRAWINGS


@pytest.fixture
def tiny_overrides() -> tuple[str, ...]:
    return TINY_WITH_DRAWINGS


@pytest.mark.parametrize("channels", [2, 3])
def test_first_images_are_logged_once(train: Callable[..., Path], channels: int) -> None:
    run_dir = train("logger=none", "confusion_matrix=none", "trainer.max_epochs=1", f"data.channels={channels}")
    written = sorted(path.name for path in (run_dir / "images" / "samples").iterdir())
    assert written == ["grid_step_0.png", "image_step_0.png"]
    logged = np.array(Image.open(run_dir / "images" / "samples" / "image_step_0.png"))
    settings: dict[str, Any] = {"num_classes": 4, "num_samples": 200, "image_size": 8, "seed": 1}
    data = Synthetic(**settings, channels=channels, batch_size=128, val_size=0.25)
    data.setup("fit")
    first = data.first_training_images(1).images[0].numpy()
    expected = first.transpose(1, 2, 0) if channels == 3 else np.stack([first[0]] * 3, -1)
    assert np.array_equal(logged, expected)
    grid = np.array(Image.open(run_dir / "images" / "samples" / "grid_step_0.png"))
    assert grid.ndim == 3 and len(np.unique(grid.reshape(-1, 3), axis=0)) > 25


def test_grid_shows_each_image_in_reading_order() -> None:
    import torch

    levels = torch.arange(6, dtype=torch.uint8) * 40 + 20  # no white: the background
    images = levels.view(6, 1, 1, 1).expand(6, 1, 8, 8)
    picture = draw_image_grid(images, [f"class {index}" for index in range(6)], columns=3)
    height, width, _ = picture.shape
    centres = [(np.argwhere((picture == int(level)).all(-1)).mean(0) / (height, width)).tolist() for level in levels]
    rows, columns = [row for row, _ in centres], [column for _, column in centres]
    assert max(rows[:3]) < min(rows[3:])
    assert columns[0] < columns[1] < columns[2] and columns[3] < columns[4] < columns[5]
    assert displayable(images[0]).shape == (8, 8)
