"""What is typed is what Hydra reads; what it would read otherwise is told with a form that can be pasted."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from image_classifier.engine.errors import UserError
from image_classifier.engine.overrides import prepare, quoted, typed_value
from image_classifier.engine.terminal import shell_quoted
from odd_names import ODD_NAMES, read_by_bash

NAMES = [*ODD_NAMES, "a://b"]


def read(override: str) -> object:
    return OverridesParser.create().parse_override(override).value()


@pytest.mark.parametrize("key", ["data.root", "hydra.sweep.dir", "+model.net.name"])
@pytest.mark.parametrize("name", NAMES)
def test_quoted_form_is_read_as_the_text(key: str, name: str) -> None:
    for value in (f"./{name}", f"/data/{name}", f"/data/{name}/end"):
        override = quoted(key, value)
        assert read(override) == value
        assert read_by_bash(shell_quoted(override)) == [override] == prepare([override])


@pytest.mark.parametrize("key", ["data.root", "ckpt_path", "input", "output", "paths.data_dir", "hydra.run.dir"])
@pytest.mark.parametrize("name", NAMES)
def test_a_path_is_read_literally_or_told_with_the_form_that_is(key: str, name: str) -> None:
    for value in (name if name not in ("null", "~") else f"./{name}", f"/data/{name}", f"/data/{name}/x.ckpt"):
        try:
            (prepared,) = prepare([f"{key}={value}"])
        except UserError as error:
            _, _, advice = str(error).rpartition("; type: ")
            (prepared,) = prepare(read_by_bash(advice))
        assert read(prepared) == value


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("ckpt_path=a/epoch=3.ckpt", "where '=' needs quotes; type: 'ckpt_path=\"a/epoch=3.ckpt\"'"),
        ("data.root=/a b(1)/x", "where '(' needs quotes; type: 'data.root=\"/a b(1)/x\"'"),
        ("data.root=it's", 'where "\'" needs quotes; type: '),
        ("data.root=/jürgen", "where 'ü' needs quotes; type: 'data.root=\"/jürgen\"'"),
        ("data.root={a}", "where '{' needs quotes; type: 'data.root=\"{a}\"'"),
        ("data.root=[a]", "which is a list; type: 'data.root=\"[a]\"'"),
        ("data.root=2024", "which is a number; type: 'data.root=\"2024\"'"),
        ("data.root=/a ", "where spaces at an end need quotes; type: 'data.root=\"/a \"'"),
        ("ckpt_path=/a,b/c.ckpt", "which is a sweep (add -m to run it) or, for one path, needs quotes; type: "),
        ("model.name=a;b", "where ';' needs quotes; type: 'model.name=\"a;b\"'"),
    ],
)
def test_what_hydra_would_misread_is_told(typed: str, told: str) -> None:
    with pytest.raises(UserError) as error:
        prepare([typed])
    assert told in str(error.value) and typed in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "arguments",
    [
        ["model.net.hidden_sizes=[16,32]", "data.batch_size=32", "seed=1"],
        ["-m", "model=mlp,cnn", "model.optimizer.lr=tag(log, interval(0.001, 0.1))", "data.root=/a,/b"],
        ["ckpt_path=null", "data.root=${paths.data_dir}/x", "+trainer.max_steps=5", "~callbacks.report", "~a=1"],
        ["--config-dir", "/a=b/it's", "-cn=train", "--help", "--cfg", "job"],
        ["model.net.hidden_sizes=[16,32", "no override", "model.lr=intervall(0,1)", "=x", "da ta=1"],  # Hydra says what
        ["data.root=/a\\,b", "data.root='/a,b'"],
    ],
)
def test_what_is_meant_for_hydra_is_left_alone(arguments: list[str]) -> None:
    assert prepare(arguments) == arguments


def test_names_that_are_no_text_are_told() -> None:
    with pytest.raises(UserError, match="expected text in UTF-8 but found 'data.root=/a"):
        prepare([b"data.root=/a\xff".decode(errors="surrogateescape")])


@pytest.mark.parametrize("home", ["/home/me", "/home/jürgen", "/home/a b", "/home/it's", '/home/"q"', "/home/a,b"])
@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("data.root=~/photos", "{}/photos"),
        ("hydra.run.dir=~/runs/a b", "{}/runs/a b"),
        ("output=~", "{}"),
        ("input='~/a,b/*.jpg'", "{}/a,b/*.jpg"),
        ('input="~/it\'s"', "{}/it's"),
        ("data.roots=[~/a,/b,'~/c']", ["{}/a", "/b", "{}/c"]),
        ("data.map={a:~/x}", {"a": "{}/x"}),
        ("data.root=~/a\\,b", "{}/a,b"),
        ("data.root='/a,~/b'", "/a,~/b"),
        ("data.root=/a/~b", None),
    ],
)
def test_tilde_is_the_home_directory(monkeypatch: pytest.MonkeyPatch, home: str, typed: str, expected: object) -> None:
    monkeypatch.setenv("HOME", home)

    def fill(value: object) -> object:
        if isinstance(value, list):
            return [fill(item) for item in value]
        return {key: fill(item) for key, item in value.items()} if isinstance(value, dict) else str(value).format(home)

    if expected is None:  # in the middle it is a character like others, which Hydra takes in quotes only
        with pytest.raises(UserError, match="where '~' needs quotes"):
            prepare([typed])
        return
    (prepared,) = prepare([typed])
    assert read(prepared) == fill(expected)


def test_tilde_in_a_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/a b")
    override = OverridesParser.create().parse_override(prepare(["-m", "data.root=~/a,~/b"])[1])
    assert list(override.sweep_string_iterator()) == ['"/home/a b/a"', '"/home/a b/b"']


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        *[
            ([f"{plus}shortcuts={text}"], False)
            for text in ("false", "False", "FALSE", " false ")
            for plus in ("", "++")
        ],
        *[([f"shortcuts={text}"], True) for text in ("true", "True")],
        (["shortcuts='false'"], "false"),
        (["shortcuts=0"], 0),
        (["shortcuts=true,false"], None),
        (["shortcuts=true", "seed=1", "shortcuts=False"], False),
        (["shortcuts=[", "-m"], None),
        (["model.shortcuts=false", "shortcuts_2=false", "~shortcuts"], None),
        ([], None),
    ],
    ids=str,
)
def test_a_typed_value_is_that_of_hydra(arguments: list[str], value: object) -> None:
    found = typed_value("shortcuts", arguments)
    assert (found, type(found)) == (value, type(value))
