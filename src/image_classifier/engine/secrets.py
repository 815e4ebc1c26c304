"""Values of settings that are named like secrets: hidden wherever a configuration or a command line is written.

A setting is secret by the last part of its key: where that ends with the word password, passwd, secret or token, or
with the words api key, access key, private key or the like; and all settings within `credentials` or `secrets` are.
`label_key`, `num_tokens`, `tokenizer` are no secrets, nor is `key`, which is where a file or a batch holds something.
What is made of the configuration gets the real value.
"""

import contextlib
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from image_classifier.engine import terminal
from image_classifier.engine.errors import UserError
from image_classifier.engine.overrides import PARSER, written
from image_classifier.engine.terminal import HIDDEN

KEYS = "api|access|secret|private|auth|account|master|encryption|signing|license|ssh"
NAMES = re.compile(rf"(?:.*_)?(?:password|passwd|passphrase|secret|token|(?:{KEYS})_?key)")
SECTIONS = re.compile(r"(?:.*_)?(?:credentials?|secrets)")


@lru_cache(maxsize=10_000)
def is_secret(key: Any) -> bool:
    """Whether a setting of this name, dotted or the last part alone, is one to hide."""
    *sections, name = (spelled(part) for part in str(key).split("."))
    return NAMES.fullmatch(name) is not None or any(SECTIONS.fullmatch(part) for part in (*sections, name))


def spelled(part: str) -> str:
    """apiKey and API-KEY as api_key."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", part).replace("-", "_").lower()


def hidden(node: Any, key: Any = "", instead: Any = HIDDEN) -> Any:
    """Plain containers without their secrets, but for those that name a variable of the environment."""
    if isinstance(node, dict):
        return {name: hidden(value, f"{key}.{name}", instead) for name, value in node.items()}
    if isinstance(node, list | tuple):
        return [hidden(value, key, instead) for value in node]
    if node is None or isinstance(node, bool) or not is_secret(key):
        return node
    return node if isinstance(node, str) and node.startswith("${") else instead


def hidden_override(text: str) -> str:
    """An override, or another argument of a command, without the secrets in it."""
    key, separator, typed = text.partition("=")
    if not separator or text.startswith("-"):
        return text
    name = key.lstrip("+~").partition("@")[0]
    if is_secret(name):
        return text if typed.lstrip("'\"").startswith("${") else f"{key}={HIDDEN}"  # the name of a variable stays
    if "{" not in typed:  # no settings within, and parsing takes a millisecond of every start
        return text
    try:
        value = PARSER.parse_override(text).value()
    except HydraException:
        return text
    plain = unquoted(value)
    without = hidden(plain)
    return text if without == plain else f"{key}={written(without)}"


def hidden_overrides(texts: Iterable[Any]) -> list[str]:
    """Overrides as they are kept, compared and shown: without secrets."""
    return [hidden_override(str(text)) for text in texts]


def keep_from_showing(node: Any, key: Any = "") -> None:
    """Have nothing that this process prints or logs show the secrets of a configuration, whoever's message it is in.

    Args:
        node: Plain containers, in which variables of the environment are resolved.
        key: Of the node.
    """
    if isinstance(node, dict | list | tuple):
        pairs = node.items() if isinstance(node, dict) else ((None, value) for value in node)
        for name, value in pairs:
            keep_from_showing(value, key if name is None else f"{key}.{name}")
    elif node is not None and not isinstance(node, bool) and is_secret(key) and len(str(node)) >= terminal.SHORTEST:
        terminal.secrets.add(str(node))


def keep_typed_from_showing(arguments: Iterable[str]) -> None:
    """The same of a command line."""
    for text in arguments:
        if hidden_override(text) != text:
            with contextlib.suppress(HydraException):
                override = PARSER.parse_override(text)
                keep_from_showing(unquoted(override.value()), override.key_or_group)


@contextlib.contextmanager
def secrets_kept(cfg: DictConfig) -> Iterator[None]:
    """Have nothing that is printed or logged from here on, and no error that leaves, show a configuration's secrets."""
    keep_from_showing(OmegaConf.to_container(cfg, resolve=True))
    try:
        yield
    except Exception as error:
        redact(error)
        raise


def redact(error: BaseException) -> None:
    """Make an error, and those that it came from, fit to be printed by others: without secrets and controls."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        if (one := waiting.pop()) is None or id(one) in seen:
            continue
        seen.add(id(one))
        shown = tuple(terminal.printable_lines(part) if isinstance(part, str) else part for part in one.args)
        if shown != one.args:
            one.args = shown
        waiting += [one.__cause__, one.__context__]


def unquoted(value: Any) -> Any:
    """A parsed value in plain containers with texts as keys."""
    if isinstance(value, dict):
        return {str(key): unquoted(item) for key, item in value.items()}
    return [unquoted(item) for item in value] if isinstance(value, list) else value


def check_secrets(arguments: Sequence[str]) -> None:
    """Refuse what stands for a secret in files and messages as the value itself; keep others from showing.

    Raises:
        UserError: It was typed, or comes from the files of a run that goes on.
    """
    for text in arguments:
        filled = text.replace(HIDDEN, "x")
        if filled != text and hidden_override(filled) != filled:
            key = text.partition("=")[0]
            raise UserError(
                f"expected {key.lstrip('+~')} to be typed again, for secrets are not kept, but found {text}; "
                f"add {key}=VALUE"
            )
    keep_typed_from_showing(arguments)
