"""Checks of the arguments of networks: one line says what to type instead."""

from collections.abc import Sequence
from typing import Any

from image_classifier.engine.errors import UserError


def require(accepted: bool, name: str, found: Any, expected: str, example: Any) -> None:
    """Raise UserError unless the setting `model.net.<name>` is accepted."""
    if not accepted:
        raise UserError(
            f"expected model.net.{name} to be {expected} but found {found!r}; for example model.net.{name}={example}"
        )


def require_size(name: str, value: Any, example: int) -> None:
    """Raise UserError unless the setting is a whole number of at least 1."""
    require(is_size(value), name, value, "a whole number of at least 1", example)


def require_sizes(name: str, values: Any, example: str) -> None:
    """Raise UserError unless the setting is a list of whole numbers of at least 1; it may be empty."""
    accepted = isinstance(values, Sequence) and all(is_size(value) for value in values)
    require(accepted, name, values, "a list of whole numbers of at least 1", example)


def is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
