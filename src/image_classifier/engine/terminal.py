"""What goes to a terminal or into a log: names of classes, files and settings are shown there, and do nothing.

Each line is printed by `say`; tables and what else rich paints are made in `terminal_tables.py`, which takes longer to
import. A name that holds an escape sequence, a newline or a right-to-left override neither moves the cursor nor hides
what follows.
"""

import logging
import re
import shlex
import sys
from collections.abc import Iterable
from typing import Any, TextIO

# Controls of C0 and C1, what turns the direction of text or breaks lines, and bytes of a name that are no text.
CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
CONTROLS_BUT_LINES = re.compile(f"(?![\n\t]){CONTROLS.pattern}")

SHORTEST = 5  # characters of a secret that is looked for: shorter ones would be found in other words
secrets: set[str] = set()  # values that settings named like secrets have in this process: nothing shows them
HIDDEN = "***"  # stands for one; Hydra's grammar takes it without quotes


def without_secrets(text: str) -> str:
    """A text, such as a library's message, without the secrets of this process in it."""
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    return text


def escaped(match: re.Match[str]) -> str:
    return match.group().encode("unicode_escape").decode("ascii")


def printable(text: Any) -> str:
    """A text of one line, in which each character that would act on a terminal is shown as `\\x1b` or the like."""
    return CONTROLS.sub(escaped, without_secrets(str(text)))


def printable_lines(text: Any) -> str:
    """The same of a text that somebody else has put in lines, such as a traceback."""
    return CONTROLS_BUT_LINES.sub(escaped, without_secrets(str(text)))


def shell_quoted(argument: str) -> str:
    """An argument as bash and zsh read it: like shlex.quote, but with nothing that acts on a terminal."""
    if not CONTROLS.search(argument):
        return shlex.quote(argument)
    text = argument.replace("\\", "\\\\").replace("'", "\\'")
    return f"$'{CONTROLS.sub(escaped_for_shell, text)}'"


def escaped_for_shell(match: re.Match[str]) -> str:
    code = ord(match.group())
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a name that is no text
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}"


def shell_joined(arguments: Iterable[str]) -> str:
    """A command that can be pasted."""
    return " ".join(map(shell_quoted, arguments))


def say(message: Any, stream: TextIO | None = None) -> None:
    """Print a line at once.

    Args:
        message: The line; a newline in it can only be a name's.
        stream: sys.stdout when it is None.
    """
    stream = stream or sys.stdout
    encoding = getattr(stream, "encoding", None) or "utf-8"
    text = printable(message).encode(encoding, "backslashreplace").decode(encoding)
    print(text, file=stream, flush=True)


class LogFormatter(logging.Formatter):
    """For logs, in which tracebacks stay what they are; configs/hydra/default.yaml names it."""

    def format(self, record: logging.LogRecord) -> str:
        return printable_lines(super().format(record))
