import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from handmade import make_table, pictures_of
from image_classifier.engine.runs.thumbnails import choose_samples, load_atlas, make_atlas, reduced, save_atlas

NAMES = ["a", "b", "c", "d"]


@pytest.mark.parametrize("limit", [0, 1, 10, 40, 200, 1000])
def test_mistakes_come_first_and_of_each_cell_the_worst(limit: int) -> None:
    table = make_table(NAMES, 200)
    chosen = choose_samples(table, limit)
    assert len(chosen) == min(limit, 200)
    assert len(set(chosen.tolist())) == len(chosen)
    wrong = table.true != table.predicted
    room = max(round(0.8 * limit), limit - int((~wrong).sum()))
    assert wrong[chosen].sum() == min(room, wrong.sum())
    cells = table.true * 4 + table.predicted
    for cell in np.unique(cells[chosen]):
        kept, all_of_it = (np.sort(table.loss[rows][cells[rows] == cell])[::-1] for rows in (chosen, np.arange(200)))
        assert np.array_equal(kept, all_of_it[: len(kept)])
    if limit == 40:  # no cell has two pictures while another one has none
        assert set(cells[chosen[wrong[chosen]]].tolist()) == set(cells[wrong].tolist())


def test_samples_without_a_label_are_left_out() -> None:
    table = make_table(NAMES, 50)
    table.true[:20] = -1
    assert choose_samples(table, 100).min() >= 20


@pytest.mark.parametrize("number", [1, 7, 600])
def test_every_picture_is_where_the_layout_says(tmp_path: Path, number: int) -> None:
    rows = np.arange(3, 3 + 2 * number, 2)
    atlas = make_atlas(rows, pictures_of)
    save_atlas(tmp_path, "test", atlas)
    read = load_atlas(tmp_path, "test")
    assert read == atlas
    assert read is not None
    assert read.rows == rows.tolist()
    sheet = np.asarray(Image.open(io.BytesIO(read.content)).convert("RGB"))
    for place, row in enumerate(rows):
        line, column = divmod(place, read.columns)
        tile = sheet[line * 12 : (line + 1) * 12, column * 12 : (column + 1) * 12]
        assert np.array_equal(tile, np.repeat(pictures_of([row])[0].transpose(1, 2, 0), 3, axis=2))


def test_no_pictures_leave_no_file_of_an_earlier_run(tmp_path: Path) -> None:
    save_atlas(tmp_path, "test", make_atlas(np.arange(3), pictures_of))
    save_atlas(tmp_path, "test", make_atlas(np.arange(0), pictures_of))
    assert load_atlas(tmp_path, "test") is None


@pytest.mark.parametrize(
    ("shape", "expected"), [((3, 96, 64), (48, 32)), ((1, 20, 10), (20, 10)), ((3, 300, 300), (48, 48))]
)
def test_large_pictures_are_made_smaller(shape: tuple[int, int, int], expected: tuple[int, int]) -> None:
    images = np.full((2, *shape), 70, dtype=np.uint8)
    small = reduced(images)
    assert small.shape == (2, *expected, 3)
    assert (small == 70).all()


def test_two_thousand_small_pictures_stay_near_a_megabyte() -> None:
    smooth = np.random.default_rng(0).integers(0, 256, (2000, 1, 7, 7), dtype=np.uint8).repeat(4, 2).repeat(4, 3)
    atlas = make_atlas(np.arange(2000), lambda rows: smooth[rows])
    assert atlas is not None
    assert len(atlas.content) < 1_000_000
