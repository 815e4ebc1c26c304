"""Checks of settings against the arguments that they become, read from the source without importing it.

A data set, network, loss or callback brings its own checks this way: by the annotations of its arguments, such as
`Literal["crop", "pad"]`, `bool` or `Annotated[int, at_least(1)]` (engine/settings.py). What is annotated in other ways,
and what other packages declare, is left to Python.
"""

import ast
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_args, get_origin

from image_classifier.engine import settings
from image_classifier.engine.errors import UserError
from image_classifier.engine.overrides import written

PACKAGE = __name__.partition(".")[0]
ROOT = Path(__file__).parents[2]  # of the package


class Kind(NamedTuple):
    """A kind of value that an argument takes."""

    accepts: Callable[[Any], bool]
    words: str
    example: Any = None


class Argument(NamedTuple):
    """An argument of what a configuration names."""

    kinds: tuple[Kind, ...]  # any of which a value may be; none: whatever
    default: Any = None  # where it is a number, a text or the like


ATOMS = {
    "int": Kind(lambda value: isinstance(value, int) and not isinstance(value, bool), "a whole number", 1),
    "float": Kind(lambda value: isinstance(value, int | float) and not isinstance(value, bool), "a number", 0.5),
    "bool": Kind(lambda value: isinstance(value, bool), "true or false", True),
    "str": Kind(lambda value: isinstance(value, str), "a text", "name"),
    "None": Kind(lambda value: value is None, "null", "null"),
}


def check_signatures(node: Any, path: str = "") -> None:
    """Check the settings of everything of this project that a configuration names.

    Args:
        node: A part of the configuration, in plain containers.
        path: Its dotted key.

    Raises:
        UserError: A value is none that the argument takes.
    """
    if isinstance(node, Mapping):
        target = node.get("_target_")
        if isinstance(target, str) and target.startswith(f"{PACKAGE}.") and not node.get("_args_"):
            arguments = arguments_of(target)
            for key, value in node.items():
                if key in arguments:
                    check_value(f"{path}.{key}", value, arguments[key])
        for key, value in node.items():
            check_signatures(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, Sequence) and not isinstance(node, str):
        for index, value in enumerate(node):
            check_signatures(value, f"{path}.{index}")


def check_value(key: str, value: Any, argument: Argument) -> None:
    made_of_settings = isinstance(value, Mapping) and "_target_" in value
    if made_of_settings or not argument.kinds or any(kind.accepts(value) for kind in argument.kinds):
        return
    expected = " or ".join(kind.words for kind in argument.kinds)
    fitting = argument.default is not None and any(kind.accepts(argument.default) for kind in argument.kinds)
    example = written(argument.default if fitting else argument.kinds[0].example)
    raise UserError(f"expected {key} to be {expected} but found {written(value)}; for example {key}={example}")


def arguments_of(target: str) -> dict[str, Argument]:
    """The arguments of a class or function of this project, those of its bases too where it passes on what it gets."""
    module, _, name = target.rpartition(".")
    path = ROOT.joinpath(*module.split(".")[1:]).with_suffix(".py")
    if not path.is_file():
        return {}
    state = path.stat()
    source = source_of(path, state.st_mtime_ns, state.st_size)
    found = source.definition(name)
    return dict(source.arguments(found)) if found is not None else {}


@lru_cache(maxsize=200)
def source_of(path: Path, changed: int, size: int) -> "Source":
    """The definitions in a file of this time of change and size: edited in a notebook, it is read again."""
    return Source(path)


class Source:
    """The definitions in a file."""

    def __init__(self, path: Path) -> None:
        self.body = ast.parse(path.read_text(encoding="utf-8")).body

    def definition(self, name: str) -> ast.ClassDef | ast.FunctionDef | None:
        kinds = (ast.ClassDef, ast.FunctionDef)
        return next((node for node in self.body if isinstance(node, kinds) and node.name == name), None)

    def arguments(self, node: ast.ClassDef | ast.FunctionDef) -> Iterator[tuple[str, Argument]]:
        if isinstance(node, ast.FunctionDef):
            yield from self.arguments_of_function(node)
            return
        inits = [part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"]
        if not inits or inits[0].args.kwarg:
            for base in node.bases:
                yield from self.arguments_of_base(base)
        for field in node.body:  # of a dataclass
            if not inits and isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                yield field.target.id, Argument(self.kinds(field.annotation), constant(field.value))
        for init in inits:
            yield from self.arguments_of_function(init)

    def arguments_of_function(self, node: ast.FunctionDef) -> Iterator[tuple[str, Argument]]:
        given = node.args
        positional = [*given.posonlyargs, *given.args]
        defaults = [None] * (len(positional) - len(given.defaults)) + given.defaults + given.kw_defaults
        for argument, default in zip([*positional, *given.kwonlyargs], defaults, strict=True):
            if argument.annotation is not None:
                yield argument.arg, Argument(self.kinds(argument.annotation), constant(default))

    def arguments_of_base(self, base: ast.expr) -> Iterator[tuple[str, Argument]]:
        if not isinstance(base, ast.Name):
            return
        if (here := self.definition(base.id)) is not None:
            yield from self.arguments(here)
        for node in self.body:
            if isinstance(node, ast.ImportFrom) and any(alias.name == base.id for alias in node.names):
                yield from arguments_of(f"{node.module}.{base.id}").items()

    def kinds(self, node: ast.expr) -> tuple[Kind, ...]:
        """What an annotation takes; nothing where it says more than is understood here."""
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            left, right = self.kinds(node.left), self.kinds(node.right)
            return left + right if left and right else ()
        if isinstance(node, ast.Constant) and node.value is None:
            return (ATOMS["None"],)
        if isinstance(node, ast.Name):
            return self.kinds_of_name(node.id)
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
            return self.kinds_of_generic(node.value.id, node.slice)
        return ()

    def kinds_of_name(self, name: str) -> tuple[Kind, ...]:
        if name in ATOMS:
            return (ATOMS[name],)
        if get_origin(shared := getattr(settings, name, None)) is Annotated:
            kind, bound = get_args(shared)
            return (bounded(ATOMS[kind.__name__], bound),)
        for node in self.body:  # such as `Mode = Literal["auto", "online"]`
            if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
                return self.kinds(node.value)
        return ()

    def kinds_of_generic(self, name: str, inside: ast.expr) -> tuple[Kind, ...]:
        parts = inside.elts if isinstance(inside, ast.Tuple) else [inside]
        if name == "Literal":
            choices = [constant(part) for part in parts]
            return (Kind(lambda value: value in choices, f"one of {', '.join(map(written, choices))}", choices[0]),)
        if name == "Annotated":
            (kind,), bound = self.kinds(parts[0]), parts[1]
            if isinstance(bound, ast.Call) and isinstance(bound.func, ast.Name) and hasattr(settings, bound.func.id):
                made = getattr(settings, bound.func.id)(*(constant(argument) for argument in bound.args))
                return (bounded(kind, made),)
            return (kind,)
        if name in ("Sequence", "list", "tuple"):
            items = self.kinds(parts[0])
            return (list_of(items),) if items else ()
        return ()


def bounded(kind: Kind, bound: settings.Bound) -> Kind:
    return Kind(lambda value: kind.accepts(value) and bound.accepts(value), f"{kind.words} {bound.words}", kind.example)


def list_of(items: tuple[Kind, ...]) -> Kind:
    plural = {"a whole number": "whole numbers", "a number": "numbers", "a text": "texts"}
    words = " or ".join(kind.words for kind in items)
    for singular, several in plural.items():
        words = words.replace(singular, several)
    return Kind(
        lambda value: isinstance(value, list | tuple) and all(any(k.accepts(item) for k in items) for item in value),
        f"a list of {words}",
        [items[0].example],
    )


def constant(node: ast.expr | None) -> Any:
    """The value of a literal; None for anything else."""
    try:
        return None if node is None else ast.literal_eval(node)
    except ValueError:
        return None
