"""The table of what was tried, docs/reliability.md."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROW = re.compile(r"^\|[^|]*\| *(\d+)[^|]*\| *(\d+)[^|]*\|(.*)\|$", re.MULTILINE)
FILE = re.compile(r"`(tests/[\w/]+\.py)`")


def test_the_sum_is_that_of_the_rows_and_their_tests_exist() -> None:
    text = (ROOT / "docs" / "reliability.md").read_text()
    rows = ROW.findall(text)
    tried, held = (sum(int(row[index]) for row in rows) for index in (0, 1))
    assert held == tried
    assert f"In sum {tried:,} were tried, and all held." in text
    files = [path for row in rows for path in FILE.findall(row[2])]
    assert len(files) > len(rows) / 2
    assert [path for path in files if not (ROOT / path).is_file()] == []
