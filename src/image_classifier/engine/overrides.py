"""Overrides as they are typed: `~` is the home directory, and what Hydra would misread is told with its cure."""

import contextlib
import os
import re
from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

from image_classifier.engine.errors import UserError
from image_classifier.engine.terminal import shell_quoted

PARSER = OverridesParser.create()
OVERRIDE = re.compile(r"(?P<key>[^-=](?:\\.|[^=\\])*)=(?P<value>.*)", re.DOTALL)
PATH_KEYS = re.compile(
    r"\+{0,2}(data\.root|ckpt_path|resume|model\.init_from|input|output|paths\.\w+|hydra\.(run|sweep)\.dir)"
)
HYDRAS_OWN = re.compile(r"[^\w\-/.+$%*@?|:\\ ]|[^\x00-\x7f]")  # characters that stand for themselves only in quotes
PIECES = re.compile(
    r"""(?P<quoted>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')
      | (?P<home>(?<![^,\[({:\s])~(?:\\.|[^\\,\[\](){}"'=])*)  # at the start of an element
      | .""",
    re.DOTALL | re.VERBOSE,
)
ESCAPED = re.compile(r"\\([\\()\[\]{}:=, \t])")


def prepare(arguments: Sequence[str]) -> list[str]:
    """Make arguments of a command ready for Hydra.

    Args:
        arguments: Without the name of the command; flags stay as they are.

    Returns:
        The arguments with home directories in full.

    Raises:
        UserError: Hydra would read an override as something else than a path, or not at all.
    """
    multirun = any(argument.startswith(("-m", "--mu", "hydra.mode=")) for argument in arguments)
    return [prepare_override(argument, multirun) for argument in arguments]


def prepare_override(argument: str, multirun: bool) -> str:
    if not argument.isprintable() and not is_text(argument):
        raise UserError(f"expected text in UTF-8 but found {argument!a}; rename what it names")
    parts = OVERRIDE.fullmatch(argument)
    if parts is None:
        return argument
    key, value = parts["key"], parts["value"]
    expanded = f"{key}={expand_home(value)}"
    if problem := misreading(key, value, expanded, multirun):
        raise UserError(
            f"expected {key}=VALUE as Hydra reads it but found {argument}, {problem}; type: "
            f"{shell_quoted(quoted(key, value))}"
        )
    return expanded


def is_text(argument: str) -> bool:
    """Whether it can be written to a file: the name of a file may hold any bytes."""
    try:
        argument.encode()
    except UnicodeEncodeError:
        return False
    return True


def misreading(key: str, value: str, expanded: str, multirun: bool) -> str:
    """What Hydra would make of an override that is meant literally; empty when all is well.

    Mistakes in keys, lists and functions are left to Hydra, whose messages say what is wrong with them.
    """
    is_path = PATH_KEYS.fullmatch(key) is not None
    try:
        override = PARSER.parse_override(expanded)
    except HydraException as error:
        own = HYDRAS_OWN.search(value)
        mistake = not is_path and (value[:1] in "[{" or "while evaluating" in str(error))
        return f"where {own.group()!r} needs quotes" if own and is_key(key) and not mistake else ""
    if not is_path:
        return ""
    if override.is_sweep_override():
        if multirun and not key.startswith("hydra."):
            return ""
        return "which is a sweep" + ("" if multirun else " (add -m to run it) or, for one path, needs quotes")
    read = override.value()
    if isinstance(read, str):
        unchanged = read == value or isinstance(override._value, QuotedString) or "\\" in value
        return "" if unchanged else "where spaces at an end need quotes"
    kind = {list: "a list", dict: "a dictionary", bool: "true or false"}.get(type(read), "a number")
    return "" if read is None else f"which is {kind}"


def is_key(key: str) -> bool:
    try:
        PARSER.parse_override(f"{key}=x")
    except HydraException:
        return False
    return True


def quoted(key: str, value: str) -> str:
    """The override by which Hydra reads a value as exactly this text."""
    try:
        if PARSER.parse_override(f"{key}={value}")._value == value:
            return f"{key}={value}"
    except HydraException:
        pass
    return f"{key}={QuotedString(value, Quote.double).with_quotes()}"


def expand_home(value: str) -> str:
    """Write home directories in full in a value of Hydra's grammar: alone, in quotes, in lists and in sweeps."""

    def expand(piece: re.Match[str]) -> str:
        text = piece["home"] or (piece["quoted"] or "")[1:-1]
        user, slash, rest = text.partition("/")
        home = os.path.expanduser(user)  # noqa: PTH111  # leaves the name of an unknown user as it is
        if not user.startswith("~") or home == user:
            return piece.group()
        if piece["home"]:
            return QuotedString(home + slash + ESCAPED.sub(r"\1", rest).rstrip(), Quote.double).with_quotes()
        quote = Quote.double if piece.group().startswith('"') else Quote.single
        return QuotedString(home, quote).with_quotes()[:-1] + slash + rest + piece.group()[0]

    return PIECES.sub(expand, value)


def typed_value(key: str, arguments: Sequence[str]) -> Any:
    """The value that Hydra reads for a setting in a command line, the last one; None where it is not typed."""
    found = None
    for argument in arguments:
        if argument.lstrip("+").partition("=")[0].strip() == key:
            with contextlib.suppress(HydraException):
                override = PARSER.parse_override(argument)
                found = None if override.is_sweep_override() else override.value()
    return found


def swept_keys(arguments: Sequence[str]) -> list[str]:
    """The settings that a multirun varies, by its command line or by the space that its sweeper searches."""
    keys = []
    for argument in arguments:
        if OVERRIDE.fullmatch(argument):
            override = PARSER.parse_override(argument)
            keys += [override.key_or_group] * override.is_sweep_override()
            keys += [override.key_or_group.removeprefix("hydra.sweeper.params.")] * ("sweeper.params" in argument)
    return keys


def written(value: Any) -> str:
    """A value as it would be typed."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{','.join(map(written, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{written(item)}" for key, item in value.items()) + "}"
    return str(value)
