"""Rows of a table as text that people open: CSV in a spreadsheet, Markdown on a page.

No name in a CSV file is taken for a formula: text that begins with =, +, -, @, a tab or a carriage return, and is no
number, gets an apostrophe before it. Reading gives back what was written.
"""

import csv
import html
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

FORMULA = re.compile(r"'*[=+\-@\t\r]")


class Lines(list[str]):
    """What `writer_of` writes: lines that end with a newline alone."""

    def write(self, line: str) -> None:
        self.append(f"{line[:-2]}\n")


def writer_of(lines: Lines) -> Any:
    """A CSV writer that quotes a carriage return, as Python 3.11 and 3.12 do only where lines end with one."""
    return csv.writer(lines, lineterminator="\r\n")


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    """Rows as CSV."""
    lines = Lines()
    writer_of(lines).writerows([cell_for_sheet(cell) for cell in row] for row in rows)
    return "".join(lines)


def read_text(path: Path) -> str:
    """The text of a CSV file: `Path.read_text` would make a newline of a name's carriage return."""
    return path.read_bytes().decode()


def read_rows(lines: Iterable[str]) -> Iterator[list[str]]:
    """The rows of what `csv_text` wrote."""
    for row in csv.reader(lines):
        quoted = "'" in "".join(row)  # or most rows of a large table would take ten times as long
        yield [cell_of_sheet(cell) for cell in row] if quoted else row


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


def markdown_text(rows: Sequence[Sequence[Any]]) -> str:
    """A heading and the rows below it as a table in Markdown, numbers with a fraction with four digits."""
    header, *others = [
        [markdown_cell(f"{cell:.4f}" if isinstance(cell, float) else cell) for cell in row] for row in rows
    ]
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *others]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def markdown_cell(value: Any) -> str:
    escaped = re.sub(r"([\\`*_{}\[\]|])", r"\\\1", html.escape(str(value), quote=False))
    return " ".join(escaped.split())
