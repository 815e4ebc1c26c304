"""Moving through the page of a run: keys, zoom, the names beside the part in sight, and what paper gets of it."""

import base64
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.keys import Keys

from browser_page import Page
from handmade import make_run, make_table
from image_classifier.engine.runs.comparison import load_run, write_comparison
from image_classifier.engine.runs.page import write_report

pytestmark = pytest.mark.needs("chromium")

NAMES = [f"kind {index}" for index in range(1000)]
CELLS_IN_SIGHT = """
const inside = [...document.querySelectorAll('.cell[tabindex="-1"]')]; // the active one is there wherever it lies
return ['true', 'predicted'].map(side => [...new Set(inside.map(cell => +cell.dataset[side]))].sort((a, b) => a - b));
"""
# What is written on the canvas, by whether it leans.
RECORD_TEXTS = """
const texts = { true: [], false: [] }, write = CanvasRenderingContext2D.prototype.fillText;
CanvasRenderingContext2D.prototype.fillText = function (text, ...place) {
  texts[this.getTransform().b !== 0].push(text);
  write.call(this, text, ...place);
};
window.recorded = texts;
"""


@pytest.fixture(scope="module")
def many_classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = make_run(tmp_path_factory.mktemp("runs") / "many", NAMES, test=make_table(NAMES, 1500, sure=5.0))
    write_report(run_dir)
    return run_dir


@pytest.fixture
def page(browser: Chrome, many_classes: Path) -> Page:
    return Page(browser, many_classes / "report" / "report.html")


def find_class(page: Page, name: str) -> None:
    page.find("#search").send_keys(name)
    page.settled()


def focused(page: Page) -> tuple[int, int]:
    cell = page.browser.switch_to.active_element
    return int(cell.get_attribute("data-true") or -1), int(cell.get_attribute("data-predicted") or -1)


def cell_width(page: Page) -> float:
    return float(page.script("return document.querySelector('.cell').getBoundingClientRect().width"))


@pytest.mark.parametrize(("name", "by"), [("kind 0", 70), ("kind 500", -70), ("kind 999", -70)])
def test_the_names_beside_a_large_matrix_are_those_of_the_part_in_sight(page: Page, name: str, by: int) -> None:
    find_class(page, name)
    page.script(RECORD_TEXTS)
    page.script("document.querySelector('.matrix-scroller').scrollTop += arguments[0]", by)
    page.settled()
    rows, columns = page.script(CELLS_IN_SIGHT)
    assert 10 < len(rows) < 60
    assert NAMES.index(name) in columns
    assert NAMES.index(name) not in rows  # out of sight now
    assert min(abs(NAMES.index(name) - row) for row in rows) < 5
    written: dict[str, list[str]] = page.script("return recorded")
    upright, leaning = ({text for text in written[side] if text.startswith("kind ")} for side in ("false", "true"))
    assert upright == {NAMES[row] for row in rows}
    assert leaning == {NAMES[column] for column in columns}


def test_names_never_overlap(page: Page) -> None:
    """All in sight, so that most names have no room: those that are written have the height of a line each."""
    page.script(RECORD_TEXTS)
    page.click(page.find("#zoom-fit"))
    upright = [int(text.split()[1]) for text in page.script("return recorded")["false"] if text.startswith("kind ")]
    size = float(page.script("return (document.querySelector('.matrix-surface').offsetHeight) / 1000"))
    steps = {after - before for before, after in pairwise(upright) if after > before}
    assert steps
    assert min(steps) * size >= 12


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ([Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_DOWN, Keys.ARROW_LEFT, Keys.ARROW_UP], (0, 1)),
        ([Keys.ARROW_UP, Keys.ARROW_LEFT], (0, 0)),
        ([Keys.PAGE_DOWN, Keys.PAGE_DOWN, Keys.PAGE_UP], (10, 0)),
        ([Keys.END], (0, 999)),
        ([Keys.END, Keys.HOME], (0, 0)),
        ([(Keys.CONTROL, Keys.END)], (999, 999)),
        ([(Keys.CONTROL, Keys.END), (Keys.CONTROL, Keys.HOME)], (0, 0)),
    ],
)
def test_keys_move_through_the_matrix(
    browser: Chrome, page: Page, keys: list[str | tuple[str, str]], expected: tuple[int, int]
) -> None:
    page.script("document.querySelector('.cell[tabindex=\"0\"]').focus()")
    actions = ActionChains(browser)
    for key in keys:
        if isinstance(key, tuple):
            actions.key_down(key[0]).send_keys(key[1]).key_up(key[0])
        else:
            actions.send_keys(key)
    actions.send_keys(Keys.SPACE).perform()
    page.settled()
    assert focused(page) == expected
    true, predicted = expected
    title = f"{NAMES[true]}, recognized" if true == predicted else f"{NAMES[true]} taken for {NAMES[predicted]}"
    assert page.text("#details h3") == title
    in_sight = page.script(
        "const cell = document.activeElement.getBoundingClientRect();"
        "const box = document.querySelector('.matrix-scroller').getBoundingClientRect();"
        "return cell.left >= box.left && cell.top >= box.top && cell.right <= box.right && cell.bottom <= box.bottom"
    )
    assert in_sight


def test_plus_and_minus_zoom(browser: Chrome, page: Page) -> None:
    find_class(page, "kind 77")
    before = cell_width(page)
    page.script("document.querySelector('.cell[tabindex=\"0\"]').focus()")
    ActionChains(browser).send_keys("+").perform()
    page.settled()
    assert cell_width(page) == pytest.approx(1.5 * before, abs=0.1)
    ActionChains(browser).send_keys("--").perform()
    page.settled()
    assert cell_width(page) == pytest.approx(before / 1.5, abs=0.1)


@pytest.mark.parametrize("turn", [-200, 120])
def test_the_wheel_zooms_around_the_pointer(browser: Chrome, page: Page, turn: int) -> None:
    find_class(page, "kind 400")
    cell = page.cell(395, 398)
    page.script("arguments[0].scrollIntoView({block: 'nearest'})", cell)
    page.settled()
    cell = page.cell(395, 398)
    before = cell_width(page)
    box: dict[str, float] = page.script("return arguments[0].getBoundingClientRect().toJSON()", cell)
    place = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
    wheel: dict[str, Any] = {"type": "mouseWheel", **place, "deltaX": 0, "deltaY": turn, "modifiers": 2}
    browser.execute_cdp_cmd("Input.dispatchMouseEvent", wheel)
    page.settled()
    assert (cell_width(page) > before) == (turn < 0)
    assert cell_width(page) != pytest.approx(before, abs=0.5)
    browser.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": "mouseMoved", **place, "x": place["x"] + 1})
    page.settled()
    assert page.text("#hover").startswith("true kind 395, predicted kind 398: ")


def test_paper_gets_the_part_in_sight_and_says_which(browser: Chrome, page: Page) -> None:
    find_class(page, "kind 500")
    rows, columns = page.script(CELLS_IN_SIGHT)
    page.script("window.dispatchEvent(new Event('beforeprint'))")
    said = page.script("return document.querySelector('.printed').textContent")
    assert said == (
        f"The part in sight: true {NAMES[rows[0]]} to {NAMES[rows[-1]]}; "
        f"predicted {NAMES[columns[0]]} to {NAMES[columns[-1]]}."
    )
    assert not page.find(".printed").is_displayed()
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert page.find(".printed").is_displayed()
        assert not page.find(".toolbar").is_displayed()
        assert page.find("#classes th button").is_displayed()  # they are the headings
        assert page.find("#all-classes").is_displayed()  # it says that there are more
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
        page.script("window.dispatchEvent(new Event('afterprint'))")
    assert page.script("return document.querySelector('.printed').textContent") == ""
    paper = base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", {})["data"])
    assert paper.startswith(b"%PDF")


def test_small_matrices_say_that_cells_share_a_pixel(browser: Chrome, many_classes: Path, tmp_path: Path) -> None:
    page = Page(browser, write_comparison([load_run(many_classes)] * 2, tmp_path / "comparison.html"))
    assert page.text("#matrices-note") == "Several cells share a pixel: the darkest of them is shown."
    few = make_run(tmp_path / "few", NAMES[:3], test=make_table(NAMES[:3], 30))
    page = Page(browser, write_comparison([load_run(few)] * 2, tmp_path / "few.html"))
    assert not page.find("#matrices-note").is_displayed()
