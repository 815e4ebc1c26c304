"""Tables that a spreadsheet opens: no formula out of a name, and every text comes back; and tables on a page."""

import csv
import io

import pytest

from image_classifier.engine.confusion.tables import csv_text, markdown_text, read_rows
from odd_names import ODD_NAMES

FORMULAS = ["=1+1", "+x", "-x", "@SUM(A1)", "\tx", "\rx", "=cmd|' /C calc'!A0", "'=1", "''-x", "'", "'tis"]


@pytest.mark.parametrize("name", [*FORMULAS, *ODD_NAMES])
def test_a_name_is_no_formula_and_comes_back(name: str) -> None:
    text = csv_text([["name", "value"], [name, -0.5]])
    assert list(read_rows(io.StringIO(text, newline=""))) == [["name", "value"], [name, "-0.5"]]
    (_, (cell, value)) = csv.reader(io.StringIO(text, newline=""))
    assert cell[:1] not in tuple("=+-@\t\r") and value == "-0.5"
    if name not in FORMULAS and name[:1] not in "-@":
        assert cell == name


@pytest.mark.parametrize("number", ["-0.5", "+1", "-1e-05", "-3", "-inf"])
def test_numbers_stay_numbers(number: str) -> None:
    assert csv_text([[number]]) == f"{number}\n"


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        *((3, "3"), (0.5, "0.5000"), ("a|b", r"a\|b"), ("a\nb", "a b"), ("[x](y)", r"\[x\](y)")),
        ("<b> & c", "&lt;b&gt; &amp; c"),
    ],
)
def test_a_name_cannot_break_a_table_on_a_page(value: object, cell: str) -> None:
    expected = f"| name | x\\_1 \\*y\\* |\n| --- | ---: |\n| {cell} |  |\n"
    assert markdown_text([["name", "x_1 *y*"], [value, ""]]) == expected
