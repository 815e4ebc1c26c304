"""Settings against the annotations of the arguments that they become, read from the source alone."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra.types import RunMode

from image_classifier.engine.errors import UserError
from image_classifier.engine.launch import signatures
from image_classifier.engine.launch.signatures import arguments_of, check_signatures, check_value, source_of

SOURCE = """
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from image_classifier.data.augment import Augmentation
from image_classifier.engine.settings import Count, Share, above, at_least

Mode = Literal["fast", "exact", True]


class Base:
    def __init__(self, *, size: Annotated[int, at_least(2)] = 4, rate: Annotated[float, above(0)] = 0.1) -> None: ...


class Thing(Base):
    def __init__(self, mode: Mode = "fast", names: Sequence[str] = (), count: Count | None = None, **settings: int):
        ...


class Closed(Base):
    def __init__(self, other: bool, augmentation: Augmentation | None = None, table: Mapping[str, int] = {}): ...


def make(share: Share = 0.5, anything=None, pairs: list[list[int]] = []) -> Thing: ...
"""


@pytest.fixture
def things(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of the project that cannot be imported."""
    (tmp_path / "things.py").write_text(f"raise RuntimeError('imported')\n{SOURCE}")
    monkeypatch.setattr(signatures, "ROOT", tmp_path)
    source_of.cache_clear()
    yield "image_classifier.things"
    source_of.cache_clear()


ACCEPTED = [
    *[("Thing", "mode", value) for value in ("fast", "exact", True)],
    *[("Thing", "names", value) for value in ([], ["a", "b"])],
    *[("Thing", "count", value) for value in (None, 1, 10)],
    *[("Thing", "size", value) for value in (2, 100)],
    *[("Thing", "rate", value) for value in (1, 0.001)],
    *[("Thing", "unknown", "left to Python")],
    *[("Closed", "augmentation", value) for value in (None, {"_target_": "x"}, 3)],
    *[("Closed", "table", {"a": "b"}), ("Closed", "size", -1)],  # Closed does not pass it on
    *[("make", "share", value) for value in (0, 1, 0.3)],
    *[("make", "anything", value) for value in (0, "x", None)],
    *[("make", "pairs", value) for value in ([], [[1, 2], [3]])],
]
REFUSED = [
    *[("Thing", "mode", value, "one of fast, exact, true") for value in ("slow", 2, None, ["fast"])],
    *[("Thing", "names", value, "a list of texts") for value in ("a", [1], None, {"a": 1})],
    *[("Thing", "count", value, "a whole number of at least 1 or null") for value in (0, 1.5, "x", True)],
    *[("Thing", "size", value, "a whole number of at least 2") for value in (1, 2.0, None, "4")],
    *[("Thing", "rate", value, "a number above 0") for value in (0, -1, None, "x", False)],
    *[("Closed", "other", value, "true or false") for value in (1, 0, "true", None)],
    *[("make", "share", value, "a number from 0 to 1") for value in (1.1, -0.1, None, "half")],
    *[("make", "pairs", value, "a list of a list of whole numbers") for value in (3, [1], [[1.5]])],
]


@pytest.mark.parametrize(("name", "key", "value"), ACCEPTED)
def test_what_fits_is_left_alone(things: str, name: str, key: str, value: Any) -> None:
    check_signatures({"outer": [{"_target_": f"{things}.{name}", key: value}]})


@pytest.mark.parametrize(("name", "key", "value", "expected"), REFUSED)
def test_what_does_not_fit_is_told(things: str, name: str, key: str, value: Any, expected: str) -> None:
    with pytest.raises(UserError) as refusal:
        check_signatures({"outer": {"_target_": f"{things}.{name}", key: value}}, "model")
    message = str(refusal.value)
    assert message.startswith(f"expected model.outer.{key} to be {expected} but found ") and "\n" not in message
    assert f"; for example model.outer.{key}=" in message


def test_the_example_is_the_default_where_there_is_one(things: str) -> None:
    with pytest.raises(UserError, match=r"for example model\.size=4$"):
        check_signatures({"_target_": f"{things}.Thing", "size": "x"}, "model")


def test_nothing_of_what_is_checked_is_imported() -> None:
    code = (
        "import sys; from image_classifier.engine.launch.signatures import arguments_of;"
        "found = arguments_of('image_classifier.data.fashion_mnist.TorchvisionMNIST');"
        "assert {'dataset', 'batch_size'} <= set(found), found;"
        "assert not {'torch', 'image_classifier.data.fashion_mnist'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_sweep_and_numbers_as_class_names_fit(compose_config: Callable[..., Any]) -> None:
    pruning = arguments_of("image_classifier.engine.sweeps.pruning.PruningCallback")
    for key, value in {"mode": RunMode.MULTIRUN, "study_name": None, "storage": None}.items():
        check_value(key, value, pruning[key])
    compose_config("data=image_folder", "data.root=x", "data.class_names=[0,1,2]")


def test_networks_and_data_of_the_project_say_what_they_take(compose_config: Callable[..., Any]) -> None:
    for override, expected in {
        "model.net.hidden_size=no": "a whole number of at least 1",
        "model.channels_last=3": "true or false",
        "model.net.channels=[x]": "a list of whole numbers of at least 1",
        "data.device=3": "a text",
    }.items():
        with pytest.raises(UserError, match=f"expected {override.split('=')[0]} to be {expected} but found"):
            compose_config(override)


@pytest.mark.parametrize("edited", ["things", "base"])
def test_a_file_that_was_edited_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edited: str) -> None:
    """As in a notebook: the argument is new, or another kind of value, in a class or in what it is based on."""
    source_of.cache_clear()
    monkeypatch.setattr(signatures, "ROOT", tmp_path)
    base = "class Base:\n    def __init__(self, *, size: int = 4): ...\n"
    thing = "from image_classifier.base import Base\nclass Thing(Base):\n    def __init__(self, a: bool, **rest): ...\n"
    (tmp_path / "base.py").write_text(base)
    (tmp_path / "things.py").write_text(thing)
    settings = {"_target_": "image_classifier.things.Thing", "a": "text", "size": "text"}
    with pytest.raises(UserError, match="data.a to be true or false"):
        check_signatures(settings, "data")
    (tmp_path / "things.py").write_text(thing.replace("bool", "str"))
    with pytest.raises(UserError, match="data.size to be a whole number"):
        check_signatures(settings, "data")
    (tmp_path / f"{edited}.py").write_text(
        {"base": base.replace("int", "str"), "things": thing.replace("bool", "str, size: str")}[edited]
    )
    check_signatures(settings, "data")
    source_of.cache_clear()
