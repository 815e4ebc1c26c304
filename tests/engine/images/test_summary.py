"""What a data set holds, in words: counts, sizes, duplicates, warnings."""

import hashlib
import json
from collections import defaultdict
from typing import Any

import numpy as np
import pytest
import torch

from image_classifier.engine.images import summary
from image_classifier.engine.images.pictures import Facts
from image_classifier.engine.images.summary import DataSummary


def summarised(**fields: Any) -> DataSummary:
    known = {
        "source": "somewhere",
        "class_names": ["cat", "dog"],
        "counts": {"train": [30, 40], "val": [3, 4], "test": [1, 1]},
        "image_shape": (3, 8, 9),
        "normalisation": {"mean": (0.5,), "std": (0.25,), "from": "given"},
        "memory": {"bytes": 2**21, "where": "in memory (cpu)"},
    }
    return DataSummary(**known | fields)


def test_classes_are_listed_with_their_counts_in_each_part() -> None:
    content = json.loads(json.dumps(summarised().to_json()))
    assert content["classes"] == {"cat": {"train": 30, "val": 3, "test": 1}, "dog": {"train": 40, "val": 4, "test": 1}}
    assert content["warnings"] == []


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"counts": {"train": [19, 20]}}, ["few training images of cat (19): below 20"]),
        (
            {"counts": {"train": [300, 30]}},
            ["10 times more training images of cat than of dog; data.sampling"],
        ),
        ({"counts": {"train": [299, 30]}}, []),
        ({"counts": {"train": [30, 30], "val": [0, 0]}}, ["no images of cat, dog in val"]),
        ({"duplicated": 1, "duplicates": [["a", "b"]]}, ["1 image in two parts of the data, such as a = b"]),
        ({"duplicated": 9, "duplicates": [["a", "b"]]}, ["9 images in two parts of the data, such as a = b"]),
        ({"conflicts": [["a", "b"], ["c", "d"]]}, ["the same image in two classes, 2 times, such as a = b"]),
        (
            {"unreadable": [{"picture": "x.png", "reason": "cut"}]},
            ["1 picture cannot be decoded and is left out: x.png (cut)"],
        ),
    ],
)
def test_what_looks_wrong_is_warned_of(fields: dict[str, Any], expected: list[str]) -> None:
    found = summarised(**fields).to_json()["warnings"]
    assert len(found) == len(expected) and all(a.startswith(b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("seed", range(5))
def test_same_content_in_two_groups_is_what_a_loop_finds(seed: int) -> None:
    random = np.random.default_rng(seed)
    digests = random.integers(12, size=30).astype(np.uint64)  # 0: not known
    groups = random.integers(3, size=30)
    by_content = defaultdict(list)
    for index, (content, group) in enumerate(zip(digests.tolist(), groups.tolist(), strict=True)):
        if content:
            by_content[content].append((str(index), group))
    expected = [[index for index, _ in same] for same in by_content.values() if len({group for _, group in same}) > 1]
    found, number = summary.same_content(digests, groups)
    assert found == sorted(expected, key=lambda same: int(same[0])) and number == len(expected) > 0


@pytest.mark.parametrize("digests", [[], [0, 0], [5], [5, 6, 2**64 - 1, 0]])
def test_different_contents_are_no_duplicates(digests: list[int]) -> None:
    groups = np.arange(len(digests))
    assert summary.same_content(np.array(digests, dtype=np.uint64), groups) == ([], 0)


def test_digests_of_images_are_those_of_their_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.randint(256, (7, 3, 5, 4), dtype=torch.uint8)
    images[6] = images[2]
    expected = [hashlib.blake2b(image.numpy().tobytes(), digest_size=16).digest()[:8] for image in images]
    found = summary.image_digests(images.contiguous(memory_format=torch.channels_last))
    assert [int(value).to_bytes(8, "little") for value in found] == expected
    assert found[6] == found[2] and len(set(found.tolist())) == 6


def test_sizes_and_modes() -> None:
    facts = [Facts(30, 20, "RGB"), None, Facts(10, 10, "L"), Facts(200, 300, "RGB"), Facts(30, 20, "RGB")]
    assert summary.sizes_and_modes(facts) == (
        {"smallest": [10, 10], "median": [30, 20], "largest": [200, 300], "different": 3},
        {"RGB": 3, "L": 1},
    )
    assert summary.sizes_and_modes([None]) == ({}, {})


def test_many_classes_are_shown_by_the_largest_and_the_smallest(capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"[red]{index}" for index in range(50)]
    summary.print_summary(summarised(source="[/b]:smile:", class_names=names, counts={"train": list(range(100, 150))}))
    told = capsys.readouterr().out
    assert all(f"[red]{index} " in told for index in (0, 9, 40, 49)) and "[red]25" not in told
    assert "Data: [/b]:smile:" in told and "... 30 more" in told and str(sum(range(100, 150))) in told
    assert "Images: 3 x 8 x 9" in told and "Memory: 2.0 MiB of images in memory (cpu)" in told
