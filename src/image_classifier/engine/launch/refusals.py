"""What Hydra says against a command line, in the form of all other mistakes: status 2, at most three lines."""

import contextlib
import io
import re
import sys
from collections.abc import Iterator
from typing import TextIO

from image_classifier.engine.secrets import hidden_override
from image_classifier.engine.terminal import say, shell_quoted

# Lines that say nothing, or that would be wrong advice: a mistyped key is not cured by `+`.
NOISE = re.compile(
    r"\s*(To append to your config|full_key:|object_type=|See https?:|Set the environment variable|provider=|"
    r"Config search path|'?\S*' was specified|reference_type=)|Error when parsing index: \d+, string: "
)
# Said only where nothing like the key is there, and where it would stand is.
ADDITION = re.compile(
    r"^To append to your config use (?P<override>\+(?:[^\n=]*\.)?(?P<name>[^\n=.]+)=.*)$", re.MULTILINE
)
LAST_OF_TRACEBACK = re.compile(r"^[\w.]+(?:Error|Exception|Interrupt|Type)?: (?P<message>.+)$", re.MULTILINE)


class Composing:
    """Whether a command of this process is still being composed, and what was printed to stderr meanwhile."""

    errors: io.StringIO | None = None
    terminal: TextIO | None = None


composing = Composing()


def work_begins() -> bool:
    """Called when the configuration is there: what is printed from here on is no refusal. Whether it was the first."""
    if composing.errors is None:
        return False
    held, composing.errors = composing.errors.getvalue(), None
    sys.stderr = composing.terminal
    for line in held.splitlines():
        say(line, sys.stderr)
    return True


@contextlib.contextmanager
def refusals_in_short() -> Iterator[None]:
    """Around Hydra: where it ends a command before any work has begun, its message is shortened and the status is 2."""
    composing.errors, composing.terminal = io.StringIO(), sys.stderr
    sys.stderr = composing.errors
    try:
        yield
    except SystemExit as end:
        refused = end.code == 1 and composing.errors is not None
        held = composing.errors.getvalue() if composing.errors is not None else ""
        if refused:
            composing.errors = None
            sys.stderr = composing.terminal
            for line in f"error: {shortened(held)}".splitlines():
                say(line, sys.stderr)
            sys.exit(2)
        if end.code == 2 and held.startswith("usage: "):  # argparse, of an option that there is not
            composing.errors = None
            sys.stderr = composing.terminal
            say(f"error: {held.strip().splitlines()[-1].partition(' error: ')[2]}; see --help", sys.stderr)
        raise
    finally:
        work_begins()


def shortened(text: str) -> str:
    """A message of Hydra's or OmegaConf's without what does not help, in at most three lines."""
    if "Traceback (most recent call last)" in text:
        messages = LAST_OF_TRACEBACK.findall(text)
        return f"{messages[-1] if messages else text.strip().splitlines()[-1]} (HYDRA_FULL_ERROR=1 shows where)"
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip() and not NOISE.match(line)]
    if any(line.startswith("Available options in") for line in lines):
        at = next(number for number, line in enumerate(lines) if line.startswith("Available options in"))
        lines = [*lines[:at], f"{lines[at]} {', '.join(lines[at + 1 :])}"]
    if lines and lines[0].startswith("Could not override") and len(lines) > 1:
        lines = lines[1:]  # the next says why
    if (
        len(lines) == 1
        and (addition := ADDITION.search(text))
        and lines[0] == f"Key '{addition['name']}' is not in struct"
    ):
        lines[0] += f"; if it is to be a new one, type: {shell_quoted(hidden_override(addition['override']))}"
    return "\n".join(lines[:3]) or "Hydra refused the command line and did not say why"
