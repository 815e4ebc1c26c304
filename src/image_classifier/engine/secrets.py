"""Values of settings that are named like secrets: hidden wherever a configuration or a command line is written.

A setting is secret by the last part of its key: where that ends with the word password, passwd, secret or token, or is
`key`, or ends with the words api key, access key, private key or the like. `label_key`, `num_tokens` and `tokenizer`
are no secrets. What is made of the configuration gets the real value.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from hydra.errors import HydraException

from image_classifier.engine.errors import UserError
from image_classifier.engine.overrides import PARSER, written

HIDDEN = "***"  # Hydra's grammar takes it without quotes
NAMES = re.compile(
    r"(?:.*_)?(?:password|passwd|passphrase|secret|token|(?:api|access|secret|private|auth|account|master)_?key)|key"
)


def is_secret(key: Any) -> bool:
    """Whether a setting of this name, of which the last part counts, is one to hide."""
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", str(key).rpartition(".")[2]).replace("-", "_").lower()
    return NAMES.fullmatch(name) is not None


def hidden(node: Any, key: Any = "", instead: Any = HIDDEN) -> Any:
    """Plain containers without their secrets, but for those that name a variable of the environment."""
    if isinstance(node, dict):
        return {name: hidden(value, name, instead) for name, value in node.items()}
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


def unquoted(value: Any) -> Any:
    """A parsed value in plain containers with texts as keys."""
    if isinstance(value, dict):
        return {str(key): unquoted(item) for key, item in value.items()}
    return [unquoted(item) for item in value] if isinstance(value, list) else value


def check_secrets(arguments: Sequence[str]) -> None:
    """Refuse what stands for a secret in files and messages as the value itself.

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
