"""CSV that people open in a spreadsheet: no name in it is taken for a formula, and reading gives back what was written.

Text that begins with =, +, -, @, a tab or a carriage return, and is no number, gets an apostrophe before it.
"""

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

FORMULA = re.compile(r"'*[=+\-@\t\r]")


class Line:
    """Has a `csv.writer` return the lines that it makes."""

    write = staticmethod(str)


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    """Rows as CSV."""
    writer = csv.writer(Line(), lineterminator="\r\n")  # so that Python 3.11 and 3.12 quote a carriage return, too
    lines: Iterator[Any] = (writer.writerow([cell_for_sheet(cell) for cell in row]) for row in rows)
    return "".join(f"{line[:-2]}\n" for line in lines)


def read_rows(lines: Iterable[str]) -> Iterator[list[str]]:
    """The rows of what `csv_text` wrote."""
    for row in csv.reader(lines):
        yield [cell_of_sheet(cell) for cell in row]


def cell_for_sheet(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and FORMULA.match(cell) and not is_number(cell) else cell


def cell_of_sheet(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return text == text.strip()
