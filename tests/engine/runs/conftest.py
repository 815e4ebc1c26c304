"""One browser for all pages of runs."""

from collections.abc import Iterator

import pytest
from screenshots import chromium
from selenium.webdriver import Chrome


@pytest.fixture(scope="session")
def browser() -> Iterator[Chrome]:
    with chromium(1400, 1000) as opened:
        yield opened
