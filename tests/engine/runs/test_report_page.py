"""What a person sees and does in the page of a run, in a real browser; numbers against scikit-learn's and scipy's."""

import re
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest
from screenshots import wait_for
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    confusion_matrix,
    precision_recall_fscore_support,
    roc_auc_score,
)

from browser_page import Page
from handmade import make_run, make_table, pictures_of
from image_classifier.engine.confusion.label_errors import suspected_label_errors
from image_classifier.engine.confusion.order import similarity_order
from image_classifier.engine.runs.page import write_report
from image_classifier.engine.runs.sample_table import SampleTable

pytestmark = pytest.mark.needs("chromium")

NAMES = [
    "cat",
    "dog & co",
    '<img src="http://x.example/a.png">',
    "a long name of a class, longer than there is room",
    "ünï",
]
NUMBER = len(NAMES)


def counts_in(page: Page) -> np.ndarray:
    """The matrix as a screen reader is told of it."""
    counts = np.zeros((NUMBER, NUMBER), dtype=int)
    cells = page.script(
        "return [...document.querySelectorAll('.cell')].map(cell => [cell.dataset.true, cell.dataset.predicted, "
        "cell.getAttribute('aria-label')])"
    )
    for row, column, label in cells:
        true, predicted = int(row), int(column)
        found = re.fullmatch(r"true (.*), predicted (.*): ([\d,]+) samples?", label)
        assert found and found[1] == NAMES[true] and found[2] == NAMES[predicted]
        counts[true, predicted] = int(found[3].replace(",", ""))
    assert len(cells) == NUMBER**2
    return counts


def share(successes: int, total: int) -> str:
    """As the page writes it."""
    interval = binomtest(successes, total).proportion_ci(method="wilson")
    return f"{100 * successes / total:.1f} % ({100 * interval.low:.1f} to {100 * interval.high:.1f})"


@pytest.fixture(scope="module")
def table() -> SampleTable:
    return make_table(NAMES, 800)


@pytest.fixture(scope="module")
def epochs() -> list[SampleTable]:
    return [make_table(NAMES, 300, seed=7, sure=sure) for sure in (0.2, 1.0, 1.5, 1.3)]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory, table: SampleTable, epochs: list[SampleTable]) -> Path:
    run_dir = make_run(tmp_path_factory.mktemp("runs") / "run <1>", NAMES, test=table, val=epochs[2], epochs=epochs)
    write_report(run_dir)
    return run_dir


@pytest.fixture
def page(browser: Chrome, run_dir: Path) -> Page:
    return Page(browser, run_dir / "report" / "report.html")


def test_nothing_goes_wrong_and_nothing_goes_out(browser: Chrome, page: Page) -> None:
    assert [line for line in browser.get_log("browser") if line["level"] == "SEVERE"] == []
    assert page.script("return performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:'))") == []
    blocked = browser.execute_async_script(
        "const done = arguments[0], blocked = [];"
        "document.addEventListener('securitypolicyviolation', event => blocked.push(event.effectiveDirective));"
        "document.body.append(Object.assign(new Image(), {src: 'http://127.0.0.1:9/a.png'}));"
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.ran = 1'}));"
        "fetch('http://127.0.0.1:9/').catch(() => {});"
        "setTimeout(() => done(blocked), 300)"
    )
    assert {"img-src", "connect-src", "script-src-elem"} <= set(blocked)
    assert page.script("return window.ran") is None
    assert not page.all('img[src^="http://x.example"]')  # the name of a class is text
    assert page.find("h1").text == "run <1>"
    browser.get_log("browser")


def test_every_cell_has_its_count_and_its_name(page: Page, table: SampleTable) -> None:
    expected = confusion_matrix(table.true, table.predicted)
    assert np.array_equal(counts_in(page), expected)
    correct = int((table.true == table.predicted).sum())
    assert page.text("#shown") == f"Test: 800 samples, accuracy {share(correct, 800)}"


def test_hovering_tells_count_and_shares(browser: Chrome, page: Page, table: SampleTable) -> None:
    counts = confusion_matrix(table.true, table.predicted)
    cell = page.cell(1, 3)
    page.script("arguments[0].scrollIntoView({block: 'center'})", cell)
    ActionChains(browser).move_to_element(cell).perform()
    row, column = share(counts[1, 3], counts[1].sum()), share(counts[1, 3], counts[:, 3].sum())
    said = f"true {NAMES[1]}, predicted {NAMES[3]}: {counts[1, 3]} samples; row {row}, column {column}"
    assert page.text("#hover") == said


@pytest.mark.parametrize("how", ["mouse", "keyboard"])
def test_a_cell_opens_on_its_pictures_worst_first(browser: Chrome, page: Page, table: SampleTable, how: str) -> None:
    rows = np.flatnonzero((table.true == 2) & (table.predicted == 1))
    rows = rows[np.argsort(-table.loss[rows], kind="stable")]
    if how == "mouse":
        page.click(page.cell(2, 1))
    else:
        page.script("document.querySelector('.cell[tabindex=\"0\"]').focus()")
        ActionChains(browser).send_keys(Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ARROW_RIGHT, Keys.ENTER).perform()
        page.settled()
        focused = browser.switch_to.active_element
        assert (focused.get_attribute("data-true"), focused.get_attribute("data-predicted")) == ("2", "1")
    assert page.text("#details h3") == f"{NAMES[2]} taken for {NAMES[1]}"
    assert page.text("#cell-count").startswith(f"{len(rows)} samples; row ")
    assert page.cards("#details") == rows.tolist()
    first = page.find("#details .card").text
    assert f"{NAMES[1]} {100 * table.confidence[rows[0]]:.1f} %" in first
    assert f"true: {NAMES[2]}" in first
    assert f"second: {NAMES[table.second[rows[0]]]}" in first
    assert f"index {table.samples[rows[0]]}" in first


def test_pictures_are_those_of_the_data(page: Page) -> None:
    page.click(page.cell(0, 0))
    seen = 0
    for canvas in page.all("#details .picture")[:5]:
        code = "const c = arguments[0]; return [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]"
        pixels = np.array(page.script(code, canvas)).reshape(12, 12, 4)
        row = int(canvas.get_attribute("data-row") or -1)
        assert np.array_equal(pixels[..., 0], pictures_of(np.array([row]))[0, 0])
        seen += 1
    assert seen == 5


def test_where_a_sample_comes_from_is_copied_with_a_click(browser: Chrome, page: Page, table: SampleTable) -> None:
    page.click(page.cell(2, 1))
    row = page.cards("#details")[1]
    page.click(page.all("#details .copy")[1])
    page.click(page.find("#search"))
    ActionChains(browser).key_down(Keys.CONTROL).send_keys("v").key_up(Keys.CONTROL).perform()
    assert page.find("#search").get_property("value") == table.samples[row]


def test_a_class_has_its_figures_and_where_its_errors_go(page: Page, table: SampleTable) -> None:
    counts = confusion_matrix(table.true, table.predicted)
    precision, recall, f1, support = precision_recall_fscore_support(table.true, table.predicted)
    page.click(page.find('#class-rows tr[data-index="3"] button'))
    assert page.text("#details h3") == NAMES[3]
    shown = [element.text for element in page.all("#class-figures dd")]
    assert shown[0] == share(counts[3, 3], counts[:, 3].sum())
    assert shown[1] == share(counts[3, 3], counts[3].sum())
    assert shown[0].startswith(f"{100 * precision[3]:.1f} %")
    assert shown[1].startswith(f"{100 * recall[3]:.1f} %")
    assert shown[2] == f"{100 * f1[3]:.1f} %"
    assert shown[3] == str(support[3])
    goes = counts[3].copy()
    goes[3] = 0
    largest = int(goes.argmax())
    assert page.text("#details ol li") == f"{NAMES[largest]} {goes[largest]}, {share(goes[largest], support[3])}"
    for index, element in enumerate(page.all("#class-rows tr")):
        figures = [cell.text for cell in element.find_elements(By.TAG_NAME, "td")]
        assert figures[3:] == [f"{100 * f1[index]:.1f} %", str(support[index])]


def test_the_name_of_a_row_can_be_clicked_in_the_matrix(browser: Chrome, page: Page) -> None:
    cell = page.cell(1, 0)
    page.script("arguments[0].scrollIntoView({block: 'center'})", cell)
    offset = -int(cell.rect["width"] / 2) - 20
    ActionChains(browser).move_to_element_with_offset(cell, offset, 0).click().perform()
    page.settled()
    assert page.text("#details h3") == NAMES[1]


def test_switches_change_the_colours(page: Page, table: SampleTable) -> None:
    counts = confusion_matrix(table.true, table.predicted)
    white, full = [255, 255, 255], [8, 48, 107]
    top = np.unravel_index(counts.argmax(), counts.shape)
    assert page.colour(*map(int, top)) == full
    before = page.colour(2, 1)
    page.click(page.find("#logarithmic"))
    assert sum(page.colour(2, 1)) < sum(before)  # darker: small counts stand out
    page.click(page.find("#hide-diagonal"))
    errors = counts - np.diag(counts.diagonal())
    assert page.colour(0, 0) == white
    assert page.colour(*map(int, np.unravel_index(errors.argmax(), errors.shape))) == full
    page.click(page.find('input[name="values"][value="row"]'))
    shares = errors / counts.sum(1, keepdims=True)
    assert page.colour(*map(int, np.unravel_index(shares.argmax(), shares.shape))) == full
    page.choose("#palette", "cividis")
    assert page.colour(0, 0) == [0xFD, 0xEA, 0x45]


@pytest.mark.parametrize("order", ["recall", "size", "similarity", "given"])
def test_classes_stand_in_the_chosen_order(page: Page, table: SampleTable, order: str) -> None:
    counts = confusion_matrix(table.true, table.predicted)
    recall = counts.diagonal() / counts.sum(1)
    expected = {
        "recall": np.argsort(recall, kind="stable").tolist(),
        "size": np.argsort(-counts.sum(1), kind="stable").tolist(),
        "similarity": similarity_order(counts),
        "given": list(range(NUMBER)),
    }[order]
    page.choose("#order", order)
    cells = page.all('.matrix-cells [role="row"][aria-rowindex="1"] .cell')
    assert [int(cell.get_attribute("data-predicted") or -1) for cell in cells] == expected
    rows = page.all('.matrix-cells .cell[aria-colindex="1"]')
    assert [int(cell.get_attribute("data-true") or -1) for cell in rows] == expected
    assert np.array_equal(counts_in(page), counts)


def test_the_most_confused_pairs_lead_to_their_cells(page: Page, table: SampleTable) -> None:
    counts = confusion_matrix(table.true, table.predicted)
    errors = counts - np.diag(counts.diagonal())
    row, column = map(int, np.unravel_index(errors.argmax(), errors.shape))
    assert [int(line.text) for line in page.all("#confused td:nth-child(2)")] == sorted(errors[errors > 0])[::-1][:20]
    page.click(page.find("#confused button"))
    assert page.text("#details h3") == f"{NAMES[row]} taken for {NAMES[column]}"


def test_the_matrix_goes_through_the_epochs(page: Page, epochs: list[SampleTable]) -> None:
    assert page.text("#epoch-shown") == "best: 3"
    page.click(page.cell(0, 1))
    for position in (0, 3):
        page.slide("#epoch", position)
        shown = epochs[position]
        counts = confusion_matrix(shown.true, shown.predicted)
        assert np.array_equal(counts_in(page), counts)
        accuracy = share(int(counts.trace()), 300)
        assert page.text("#shown") == f"Validation, epoch {position + 1}: 300 samples, accuracy {accuracy}"
        assert "best epoch" in page.text("#details .note")
    course = [confusion_matrix(table.true, table.predicted)[0, 1] for table in epochs]
    assert page.find("#course").get_attribute("aria-label") == (
        f"Validation, samples in this cell: samples ends at {course[-1]}"
    )
    marker = page.find("#curves .marker line").get_attribute("x1")
    page.slide("#epoch", 1)
    assert page.find("#curves .marker line").get_attribute("x1") != marker
    page.click(page.find('input[name="stage"][value="val"]'))
    assert np.array_equal(counts_in(page), confusion_matrix(epochs[2].true, epochs[2].predicted))


def test_play_ends_at_the_last_epoch(page: Page) -> None:
    page.click(page.find("#play"))
    assert page.text("#play") == "Pause"
    wait_for(lambda: page.text("#play") == "Play", "the end of the epochs", seconds=10)
    assert page.text("#epoch-shown") == "epoch 4"


@pytest.mark.parametrize("limit", [0.0, 0.5, 0.831, 1.0])
def test_abstaining_moves_coverage_accuracy_and_the_matrix(page: Page, table: SampleTable, limit: float) -> None:
    page.slide("#abstain", limit)
    kept = table.confidence >= limit
    correct = int((table.true == table.predicted)[kept].sum())
    assert page.text("#abstain-coverage") == share(int(kept.sum()), 800)
    assert page.text("#abstain-accuracy") == (share(correct, int(kept.sum())) if kept.any() else "none")
    expected = confusion_matrix(table.true[kept], table.predicted[kept], labels=range(NUMBER)) if kept.any() else 0
    assert np.array_equal(counts_in(page), np.zeros((NUMBER, NUMBER)) + expected)


def test_calibration_is_that_of_torchmetrics(page: Page, table: SampleTable) -> None:
    import torch
    from torchmetrics.functional.classification import binary_calibration_error

    right = torch.from_numpy((table.true == table.predicted).astype(int))
    expected = float(binary_calibration_error(torch.from_numpy(table.confidence), right, n_bins=15))
    assert float(page.text("#ece").removesuffix(" %")) == pytest.approx(100 * expected, abs=0.006)
    said = page.find("#reliability svg").get_attribute("aria-label") or ""
    low, high = 8 / 15, 9 / 15
    inside = (table.confidence >= low) & (table.confidence < high)
    correct = int((table.true == table.predicted)[inside].sum())
    assert f"53 % to 60 %: {inside.sum()} samples, accuracy {share(correct, int(inside.sum()))}" in said


def test_suspected_label_errors_are_listed_surest_first(page: Page, table: SampleTable) -> None:
    expected = suspected_label_errors(table.true, table.predicted, table.confidence, table.loss, NUMBER)
    assert len(expected) > 3
    assert page.cards("#suspects") == expected[: min(48, len(expected))].tolist()
    assert page.text("#suspects-note").startswith(f"{len(expected)} samples")


def test_a_class_is_found_by_typing(page: Page) -> None:
    page.click(page.find("#search"))
    page.find("#search").send_keys("LONG NAME", Keys.ENTER)
    page.settled()
    assert page.text("#details h3") == NAMES[3]
    page.find("#search").send_keys("?")
    page.settled()
    assert page.find("#search").get_attribute("aria-invalid") == "true"
    assert "No class has" in page.text("#hover")


def test_dark_where_the_system_is_dark(browser: Chrome, run_dir: Path) -> None:
    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
    try:
        page = Page(browser, run_dir / "report" / "report.html")
        assert page.find("#palette").get_property("value") == "dark"
        ground = page.script("return getComputedStyle(document.body).backgroundColor")
        assert ground == "rgb(18, 22, 27)"
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_two_classes_have_a_threshold_and_its_curves(browser: Chrome, tmp_path: Path) -> None:
    table = make_table(["healthy", "ill"], 500, sure=1.0)
    write_report(make_run(tmp_path / "run", table.class_names, test=table))
    page = Page(browser, tmp_path / "run" / "report" / "report.html")
    scores = np.where(table.predicted == 1, table.confidence.astype(float), 1 - table.confidence.astype(float))
    titles = [title.text for title in page.all("#binary-charts .chart-title")]
    assert titles[0] == f"ROC, area {roc_auc_score(table.true, scores):.4f}"
    assert titles[1].endswith(f"average precision {average_precision_score(table.true, scores):.4f}")
    for threshold in (0.2, 0.9):
        page.slide("#threshold", threshold)
        expected = confusion_matrix(table.true, scores >= threshold)
        for row, column in np.ndindex(2, 2):
            label = page.cell(row, column).get_attribute("aria-label") or ""
            assert label.endswith(f": {expected[row, column]} samples")
        accuracy = accuracy_score(table.true, scores >= threshold)
        assert f"accuracy {100 * accuracy:.1f} %" in page.text("#shown")
        positive_rate = share(int(expected[1, 1]), int(expected[1].sum()))
        assert f"true positive rate {positive_rate}" in page.text("#binary-figures")


def test_a_thousand_classes_scroll_zoom_and_are_found(browser: Chrome, tmp_path: Path) -> None:
    names = [f"class {index}" for index in range(1000)]
    table = make_table(names, 20_000, sure=4.0)
    write_report(make_run(tmp_path / "run", names, test=table))
    page = Page(browser, tmp_path / "run" / "report" / "report.html")
    page.find("#search").send_keys("class 777")
    page.settled()
    count = int(((table.true == 777) & (table.predicted == 777)).sum())
    label = page.cell(777, 777).get_attribute("aria-label")
    assert label == f"true class 777, predicted class 777: {count} sample{'s' * (count != 1)}"
    page.click_cell(777, 777)
    assert page.text("#cell-count").startswith(f"{count} sample")
    before = page.cell(777, 777).rect["width"]
    page.click(page.find("#zoom-in"))
    assert page.cell(777, 777).rect["width"] == pytest.approx(1.5 * before, abs=0.5)
    assert page.text("#all-classes") == "show all 1,000 (50 shown)"
    page.click(page.find("#all-classes"))
    assert len(page.all("#class-rows tr")) == 1000
    page.choose("#order", "recall")
    elements = page.script("return document.querySelectorAll('.cell').length")
    assert 0 < elements <= 2501


def test_what_is_not_in_the_page_is_said(browser: Chrome, tmp_path: Path) -> None:
    table = make_table(NAMES, 3000)
    run_dir = make_run(tmp_path / "run", NAMES, test=table, pictures=100)
    write_report(run_dir, samples=1000)
    page = Page(browser, run_dir / "report" / "report.html")
    mistakes = int((table.true != table.predicted).sum())
    notes = page.text("#notes")
    assert f"Pictures of 80 of {mistakes:,} mistakes and of 20 of {3000 - mistakes:,} other samples" in notes
    assert "Of 3,000 samples 1,000 chosen at random" in notes
    assert np.array_equal(counts_in(page), confusion_matrix(table.true, table.predicted))  # of all
    page.click(page.cell(0, 0))
    total = int(((table.true == 0) & (table.predicted == 0)).sum())
    listed = len(page.cards("#details"))
    found = re.search(r"([\d,]+) more are not in this page", page.text("#details .note"))
    more = page.find("#details > div > div > button")
    if more.is_displayed():
        listed = int(re.search(r"of ([\d,]+) shown", more.text)[1])  # type: ignore[index]
    assert found and int(found[1]) == total - listed


def test_a_run_without_predictions_still_has_its_matrix(browser: Chrome, tmp_path: Path) -> None:
    table = make_table(NAMES, 300)
    run_dir = make_run(tmp_path / "run", NAMES, test=table)
    (run_dir / "predictions" / "test.csv").unlink()
    write_report(run_dir)
    page = Page(browser, run_dir / "report" / "report.html")
    assert np.array_equal(counts_in(page), confusion_matrix(table.true, table.predicted))
    assert "no predictions" in page.text("#notes")
    page.click(page.cell(0, 1))
    assert "no predictions" in page.text("#details .note")
    assert not page.find("#trust").is_displayed()
