"""A page of ours in a real browser, as a person and a screen reader meet it."""

from pathlib import Path
from typing import Any

from screenshots import wait_for
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement


class Page:
    """The page in the browser."""

    def __init__(self, browser: Chrome, path: Path) -> None:
        self.browser = browser
        browser.get(path.as_uri())
        wait_for(lambda: browser.find_elements(By.CSS_SELECTOR, '#explorer[data-ready="true"]'), "the page")
        self.settled()

    def settled(self) -> None:
        """Let what waits for the next frame, or a little longer, happen."""
        self.browser.execute_async_script("setTimeout(() => requestAnimationFrame(() => arguments[0]()), 90)")

    def find(self, selector: str) -> WebElement:
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        return self.find(selector).text

    def script(self, code: str, *arguments: Any) -> Any:
        return self.browser.execute_script(code, *arguments)

    def cell(self, row: int, column: int) -> WebElement:
        return self.find(f'.cell[data-true="{row}"][data-predicted="{column}"]')

    def click(self, element: WebElement) -> None:
        """With the mouse, at its place."""
        self.script("arguments[0].scrollIntoView({block: 'center'})", element)
        ActionChains(self.browser).move_to_element(element).click().perform()
        self.settled()

    def click_cell(self, row: int, column: int) -> None:
        """Of a matrix that scrolls: which draws its cells anew."""
        self.script("arguments[0].scrollIntoView({block: 'center'})", self.cell(row, column))
        self.settled()
        self.click(self.cell(row, column))

    def choose(self, selector: str, value: str) -> None:
        self.script("arguments[0].scrollIntoView({block: 'center'})", self.find(selector))
        self.find(f'{selector} option[value="{value}"]').click()
        self.settled()

    def slide(self, selector: str, value: float) -> None:
        code = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input', {bubbles: true}))"
        self.script(code, self.find(selector), value)
        self.settled()

    def colour(self, row: int, column: int) -> list[int]:
        """The colour near the corner of a cell, where no text is."""
        return self.script(
            "const canvas = document.querySelector('.matrix-canvas'), ratio = devicePixelRatio;"
            "const cell = arguments[0].getBoundingClientRect(), box = canvas.getBoundingClientRect();"
            "const place = [cell.left - box.left + 4, cell.top - box.top + 4].map(value => Math.round(value * ratio));"
            "return [...canvas.getContext('2d').getImageData(...place, 1, 1).data].slice(0, 3)",
            self.cell(row, column),
        )

    def cards(self, within: str) -> list[int]:
        return [int(card.get_attribute("data-row") or -1) for card in self.all(f"{within} .card")]
