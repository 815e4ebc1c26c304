"""Tables and painted lines on a terminal, which take names as they are: `[bold]` and `:smile:` are names too."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from image_classifier.engine.terminal import printable


def console() -> Console:
    """A console of the present sys.stdout without markup."""
    return Console(markup=False, emoji=False, highlight=False)


def name(text: Any, style: str = "") -> Text:
    """A name, or a line that holds some."""
    return Text(printable(text), style=style)


class Table(RichTable):
    """A table whose headings and cells are names.

    Args:
        title: Above it, on the left.
        headings: Of its first columns.
        numbers: Headings of the columns after them, which are flush right.
        whole: Cells that are too long go on in further lines instead of being cut off.
    """

    def __init__(
        self, title: str | None = None, headings: Sequence[str] = (), numbers: Sequence[str] = (), whole: bool = False
    ) -> None:
        super().__init__(title=None if title is None else name(title), title_justify="left")
        for heading in (*headings, *numbers):
            self.add_column(
                name(heading),
                overflow="fold" if whole else "ellipsis",
                justify="right" if len(self.columns) >= len(headings) else "left",
            )

    def add_row(self, *cells: Any, **how: Any) -> None:
        super().add_row(*map(name, cells), **how)
