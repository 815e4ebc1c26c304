"""What a setting may be, said where it is declared: `width: Annotated[int, at_least(1)] = 32`.

The launcher reads such annotations from the source of whatever a configuration names, without importing it, and tells a
value that does not fit before torch is imported.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple


class Bound(NamedTuple):
    """What values of a type are allowed, and that in words."""

    accepts: Callable[[Any], bool]
    words: str


def at_least(minimum: float) -> Bound:
    return Bound(lambda value: value >= minimum, f"of at least {minimum:g}")


def above(minimum: float) -> Bound:
    return Bound(lambda value: value > minimum, f"above {minimum:g}")


def between(lowest: float, highest: float) -> Bound:
    return Bound(lambda value: lowest <= value <= highest, f"from {lowest:g} to {highest:g}")


def from_to_below(lowest: float, limit: float) -> Bound:
    return Bound(lambda value: lowest <= value < limit, f"from {lowest:g} to below {limit:g}")


def in_steps(first: int, step: int) -> Bound:
    return Bound(
        lambda value: value >= first and (value - first) % step == 0,
        f"of the row {first}, {first + step}, {first + 2 * step}, ...",
    )


Count = Annotated[int, at_least(1)]
Share = Annotated[float, between(0, 1)]


def value_at(settings: Any, key: str) -> Any:
    """What stands under a dotted key; None where nothing does."""
    for name in key.split("."):
        settings = settings.get(name) if isinstance(settings, Mapping) else None
    return settings
