"""What a person sees and does in the page that compares runs, in a real browser."""

from pathlib import Path

import numpy as np
import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from sklearn.metrics import confusion_matrix

from browser_page import Page
from handmade import make_run, make_table, pictures_of
from image_classifier.engine.runs.comparison import load_run, write_comparison
from image_classifier.engine.runs.sample_table import SampleTable

pytestmark = pytest.mark.needs("chromium")

NAMES = ["cat", "dog", "<b>bird</b>", "fish"]
PURPLE_ORANGE = ([0xB3, 0x58, 0x06], [0x54, 0x27, 0x88])


@pytest.fixture(scope="module")
def tables() -> list[SampleTable]:
    return [make_table(NAMES, 600), make_table(NAMES, 600, sure=1.6), make_table(NAMES, 600, seed=3)]


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory, tables: list[SampleTable]) -> list[Path]:
    base = tmp_path_factory.mktemp("compared")
    return [make_run(base / f"run_{number}", NAMES, test=table) for number, table in enumerate(tables)]


@pytest.fixture(scope="module")
def counts(tables: list[SampleTable]) -> list[np.ndarray]:
    return [confusion_matrix(table.true, table.predicted) for table in tables]


@pytest.fixture
def page_of_two(browser: Chrome, directories: list[Path], tmp_path: Path) -> Page:
    path = write_comparison([load_run(directory) for directory in directories[:2]], tmp_path / "comparison.html")
    return Page(browser, path)


def test_every_cell_tells_both_counts_and_the_sign(
    browser: Chrome, page_of_two: Page, counts: list[np.ndarray]
) -> None:
    assert [line for line in browser.get_log("browser") if line["level"] == "SEVERE"] == []
    for row, column in np.ndindex(4, 4):
        before, after = counts[0][row, column], counts[1][row, column]
        difference = after - before
        sign = "+" if difference > 0 else "\N{MINUS SIGN}" if difference < 0 else ""
        said = (
            f"true {NAMES[row]}, predicted {NAMES[column]}: {before}, then {after}, difference {sign}{abs(difference)}"
        )
        assert page_of_two.cell(row, column).get_attribute("aria-label") == said


def test_the_largest_change_has_the_strongest_colour_of_its_sign(page_of_two: Page, counts: list[np.ndarray]) -> None:
    points = [matrix / matrix.sum(1, keepdims=True) for matrix in counts]
    for values, change in (("points", points[1] - points[0]), ("count", counts[1] - counts[0])):
        page_of_two.click(page_of_two.find(f'input[value="{values}"]'))
        place = tuple(map(int, np.unravel_index(np.abs(change).argmax(), change.shape)))
        assert page_of_two.colour(*place) == PURPLE_ORANGE[0 if change[place] > 0 else 1]


@pytest.mark.parametrize("cell", [(0, 1), (2, 2)])
def test_a_cell_opens_on_what_only_one_run_gets_right(
    page_of_two: Page, tables: list[SampleTable], cell: tuple[int, int]
) -> None:
    row, column = cell
    page_of_two.click(page_of_two.cell(row, column))
    first, second, _ = tables

    def only(right: SampleTable, wrong: SampleTable) -> list[str]:
        taken = wrong.predicted != row if row == column else wrong.predicted == column
        rows = np.flatnonzero((right.true == row) & (right.predicted == row) & taken)
        return [right.samples[index] for index in rows[np.argsort(-wrong.loss[rows], kind="stable")]]

    for list_id, names in (("lost", only(first, second)), ("won", only(second, first))):
        shown = [element.text.split()[1] for element in page_of_two.all(f"#{list_id} .source")]
        assert shown == names[:48]
        assert page_of_two.text(f"#{list_id} h4").endswith(f": {len(names)} sample{'s' * (len(names) != 1)}")


def test_pictures_are_those_of_the_data(page_of_two: Page) -> None:
    page_of_two.click(page_of_two.cell(0, 0))
    cards = page_of_two.all("#details .card")
    assert len(cards) > 3
    for card in cards[:4]:
        index = int(card.find_element(By.CSS_SELECTOR, ".source").text.split()[1])
        code = "const c = arguments[0]; return [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]"
        canvas = card.find_element(By.CSS_SELECTOR, ".picture")
        pixels = np.array(page_of_two.script(code, canvas)).reshape(12, 12, 4)
        assert np.array_equal(pixels[..., 0], pictures_of(np.array([index // 3]))[0, 0])


def test_of_more_runs_any_two_can_be_chosen(
    browser: Chrome, directories: list[Path], counts: list[np.ndarray], tmp_path: Path
) -> None:
    path = write_comparison([load_run(directory) for directory in directories], tmp_path / "comparison.html")
    page = Page(browser, path)
    page.choose("#first", "2")
    page.choose("#second", "0")
    label = page.cell(1, 1).get_attribute("aria-label") or ""
    assert f": {counts[2][1, 1]}, then {counts[0][1, 1]}," in label
    small = page.all("#matrices canvas")
    assert len(small) == 3
    accuracy = counts[2].trace() / 600
    assert f"run_2: accuracy {100 * accuracy:.1f} %" in (small[2].get_attribute("aria-label") or "")
    for matrix, canvas in zip(counts, small, strict=True):
        code = "const c = arguments[0]; return [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]"
        pixels = np.array(page.script(code, canvas)).reshape(4, 4, 4)[..., 0]
        shares = matrix / matrix.sum(1, keepdims=True)
        darker = np.argsort(shares, axis=None)
        assert (np.diff(pixels.flatten()[darker]) <= 0).all()  # the larger the share, the darker
