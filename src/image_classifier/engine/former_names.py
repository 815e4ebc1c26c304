"""Names that this package has had."""

from typing import Any

PACKAGE = __name__.partition(".")[0]
FORMER_NAMES: tuple[str, ...] = ()  # `make rename` adds to them


def renamed(node: Any) -> Any:
    """Plain containers in which each `_target_` of a former name of the package has its present one."""
    if isinstance(node, dict):
        return {key: present(value) if key == "_target_" else renamed(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return type(node)(renamed(item) for item in node)
    return node


def present(target: Any) -> Any:
    """The present name of something in the package."""
    package, dot, rest = target.partition(".") if isinstance(target, str) else ("", "", "")
    return f"{PACKAGE}.{rest}" if dot and package in FORMER_NAMES else renamed(target)
