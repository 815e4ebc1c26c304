"""Pictures before they are decoded: what they are known by, how they are chosen and joined, arrays as pictures."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from image_classifier.engine.errors import UserError
from image_classifier.engine.images.picture_sets import PictureFiles, PictureItems, as_image, former_keys, named_keys
from image_classifier.engine.images.pictures import PictureForm


def keys_of(paths: list[Path], name: str) -> torch.Tensor:
    return former_keys(PictureFiles(paths, [name] * len(paths), torch.zeros(len(paths))))


def test_former_keys_are_of_name_size_and_content(tmp_path: Path) -> None:
    contents = {"a": b"0" * 9000, "b": b"0" * 4500 + b"1" + b"0" * 4499, "c": b"0" * 9001, "d": b""}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    paths = [tmp_path / name for name in contents]
    keys = keys_of(paths, "x/1.png")
    assert keys.dtype == torch.int64 and len(keys.unique()) == 4
    assert not torch.isin(keys_of(paths, "y/1.png"), keys).any()
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    assert torch.equal(keys_of([moved / name for name in contents], "x/1.png"), keys)
    assert keys_of([moved / "a2", moved / "a"], "x/1.png").tolist() == [0, int(keys[0])]  # told when it is read


def test_named_keys_are_of_name_and_content() -> None:
    digests = np.array([1, 2, 1, 1], dtype=np.uint64)
    keys = named_keys(["a", "a", "b", "a"], digests)
    assert keys.dtype == torch.int64 and len(keys.unique()) == 3 and keys[0] == keys[3]
    assert len(named_keys([], digests[:0])) == 0 and len(named_keys([os.fsdecode(b"\xfe")], digests[:1])) == 1


def test_keys_of_names_that_are_no_text(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xfe.png"))
    path.write_bytes(b"any")
    assert len(keys_of([path], path.name)) == 1


RAMP = np.arange(60, dtype=np.uint8).reshape(4, 5, 3) * 4


@pytest.mark.parametrize(
    ("pixels", "mode", "expected"),
    [
        (RAMP, "RGB", RAMP),
        (RAMP[..., 0], "L", RAMP[..., 0]),
        (RAMP[..., :1], "L", RAMP[..., 0]),
        (RAMP[..., :2], "LA", RAMP[..., :2]),
        (np.concatenate([RAMP, RAMP[..., :1]], -1), "RGBA", np.concatenate([RAMP, RAMP[..., :1]], -1)),
        (RAMP.astype(np.int64), "RGB", RAMP),
        (RAMP / 255, "RGB", RAMP),
        ((RAMP / 255).astype(np.float32)[..., 1], "L", RAMP[..., 1]),
        (RAMP[..., 0] > 100, "L", (RAMP[..., 0] > 100) * np.uint8(255)),
        (torch.from_numpy(RAMP).permute(2, 0, 1), "RGB", RAMP),
        (torch.from_numpy(RAMP).permute(2, 0, 1)[:1], "L", RAMP[..., 0]),
        (torch.from_numpy(RAMP)[..., 2], "L", RAMP[..., 2]),
        (torch.from_numpy(RAMP).permute(2, 0, 1).half() / 255, "RGB", RAMP),
        (torch.from_numpy(RAMP).permute(2, 0, 1).bfloat16() / 255, "RGB", None),
        (RAMP[::-1, ::-1], "RGB", RAMP[::-1, ::-1]),
    ],
)
def test_arrays_and_tensors_are_images(pixels: Any, mode: str, expected: np.ndarray | None) -> None:
    image = as_image(pixels)
    assert image.mode == mode and image.size == (5, 4)
    if expected is not None:
        assert np.array_equal(np.array(image), expected)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.zeros((3, 4, 5, 6)), r"1 to 4 channels but found an array of shape \(3, 4, 5, 6\)"),
        (np.zeros((4, 5, 7)), r"1 to 4 channels but found"),
        (np.zeros(4), r"1 to 4 channels but found"),
        (torch.full((3, 4, 4), -0.5), r"values from 0 to 1 but found -0\.5 to -0\.5; leave normalisation"),
        (np.full((4, 4), 1.5), r"values from 0 to 1 but found"),
        (np.full((4, 4), 256), r"values from 0 to 255 but found"),
        (np.full((4, 4), np.nan), r"values from 0 to 1 but found nan"),
    ],
)
def test_arrays_that_are_no_images_are_told(pixels: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_image(pixels)


def items(count: int, offset: int = 0) -> PictureItems:
    arrays = [np.full((4, 4), offset + index, dtype=np.uint8) for index in range(count)]
    return PictureItems(arrays, lambda item: item, torch.arange(count) % 2, form=PictureForm(1, 4, 4, "crop"))


def test_items_are_joined_and_chosen() -> None:
    together = items(3) + items(4, 100).select(torch.tensor([3, 1]))
    values = [int(together[index][0].amax()) for index in range(len(together))]
    assert values == [0, 1, 2, 103, 101] and together.labels.tolist() == [0, 1, 0, 1, 1]
    chosen = together.select(torch.tensor([4, 0]))
    assert [int(chosen[index][0].amin()) for index in (0, 1)] == [101, 0] and chosen.labels.tolist() == [1, 0]
    assert chosen.names is None and chosen.version() is None and chosen.describe(0) == "item 4"


def test_items_may_be_files_in_memory(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), (10, 20, 30)).save(tmp_path / "a.png")
    content = [(tmp_path / "a.png").read_bytes(), b"no picture"]
    pictures = PictureItems(content, lambda item: item, torch.tensor([0, 1]), form=PictureForm(3, 4, 4, "crop"))
    assert pictures[0][0][:, 0, 0].tolist() == [10, 20, 30] and pictures.mode(0) == "RGB"
    with pytest.raises(UserError, match=r"^expected a picture but found item 1: cannot identify image file; repair"):
        pictures[1]
