import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from handmade import make_run, make_table
from image_classifier.engine.confusion.history import MatrixHistory
from image_classifier.engine.runs import packing, page
from image_classifier.engine.runs.page import write_report

HOSTILE = ['<script src="http://x.example/a.js"></script>', "a & b", "quo\"te's", "</script><!--\u2028"]
VOID = {"meta", "img", "link", "br", "hr", "input"}


class Page(HTMLParser):
    """Collects what a browser would load and show, and checks that tags are closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.policy = ""
        self.text: dict[str, str] = {}
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        given = dict(attributes)
        assert not [name for name in given if name.startswith("on") or name == "style"]  # the policy forbids them
        self.links += [value or "" for name, value in given.items() if name in ("src", "href", "srcset", "data")]
        if given.get("http-equiv") == "Content-Security-Policy":
            self.policy = given["content"] or ""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        tag = self.open[-1] if self.open else ""
        self.text[tag] = self.text.get(tag, "") + data


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    table = make_table(HOSTILE, 60)
    config = {"data": {"name": "<img src=http://x.example/b.png>"}}
    return make_run(tmp_path / "run <1>", HOSTILE, test=table, val=table, epochs=[table], config=config)


def test_page_needs_nothing_but_itself(run_dir: Path) -> None:
    path = write_report(run_dir)
    assert path == run_dir / "report" / "report.html"
    shown = Page(path.read_text())
    assert shown.links == []
    assert shown.policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in shown.policy
    assert "http://" not in re.sub(r"http://www\.w3\.org|http://x\.example", "", path.read_text())


def test_names_are_shown_as_they_are(run_dir: Path) -> None:
    shown = Page(write_report(run_dir).read_text())
    assert shown.text["h1"] == "run <1>"
    assert "train.py data.root='<a>'" in shown.text["dd"]
    assert "<img src=http://x.example/b.png>" in shown.text["pre"]
    data = json.loads(shown.text["script"].split("'use strict'")[0])
    assert data["classNames"] == HOSTILE


def test_the_page_is_made_from_the_run_directory_alone(run_dir: Path) -> None:
    first = write_report(run_dir).read_text()
    (run_dir / "report" / "report.html").unlink()
    moved = run_dir.rename(run_dir.with_name("moved"))
    again = write_report(moved).read_text()
    for tag in ("title", "h1"):
        first = first.replace(f"<{tag}>run &lt;1&gt;<", f"<{tag}>moved<")
    assert again == first


def test_pictures_for_slides_lie_beside_it(run_dir: Path) -> None:
    write_report(run_dir)
    found = sorted((run_dir / "report").glob("*.png"))
    assert [path.stem for path in found] == ["confusion_matrix_test", "confusion_matrix_val", "learning_curves"]
    for path in found:
        assert np.asarray(Image.open(path)).std() > 5  # not blank


@pytest.mark.parametrize("number", [2, 1000])
def test_any_number_of_classes_fits(tmp_path: Path, number: int) -> None:
    names = [f"class {index}" for index in range(number)]
    few = make_table(names, 10 * number, sure=5)
    columns = {name: np.tile(getattr(few, name), 5) for name in ("true", "predicted", "confidence", "loss", "second")}
    table = few._replace(samples=[str(index) for index in range(50 * number)], **columns)
    path = write_report(make_run(tmp_path / "run", names, test=table, val=table, epochs=[table] * 3))
    assert path.stat().st_size < 8_000_000
    for picture in path.parent.glob("*.png"):
        assert max(Image.open(picture).size) < 3500


def test_a_run_that_was_broken_off_has_a_page_too(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text('{"val/acc": 0.5}')
    assert "val/acc" in write_report(tmp_path).read_text()


def test_predictions_alone_make_a_matrix(run_dir: Path) -> None:
    (run_dir / "confusion_matrix" / "test.csv").unlink()
    matrix = page.read_matrix(run_dir, "test")
    assert matrix is not None
    counts, names = matrix
    assert set(names) == set(HOSTILE)
    assert counts.sum() == 60


@pytest.mark.parametrize("values", [[], [0], [127, 128, 129], [2**14 - 1, 2**14, 2**21, 2**35, 2**55], range(300)])
def test_whole_numbers_are_packed_in_as_few_bytes_as_they_need(values: list[int]) -> None:
    content = base64.b64decode(packing.pack_whole(np.array(values, dtype=np.int64)).removeprefix("v:"))
    read, value, shift = [], 0, 0
    for byte in content:
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            read.append(value)
            value, shift = 0, 0
    assert read == list(values)
    assert len(content) == sum(max(1, -(-int(number).bit_length() // 7)) for number in values)


@pytest.mark.parametrize(
    ("names", "prefix"),
    [
        (["/a/b/one.png", "/a/b/two.png"], "/a/b/"),
        (["/a/bc/one.png", "/a/bd/two.png"], "/a/"),
        (["one.png", "other/two.png"], ""),
        (["/one.png"], "/"),
        (["x"], ""),
    ],
)
def test_paths_share_their_directory(names: list[str], prefix: str) -> None:
    packed = packing.pack_names(names)["names"]
    assert packed["prefix"] == prefix
    assert [packed["prefix"] + rest for rest in packed["rest"]] == names


@pytest.mark.parametrize(
    ("saved", "told", "expected"),
    [
        ("b", None, 2),  # the only epoch with this matrix
        ("a", None, None),  # the first or the third: nobody knows
        ("a", 1, 1),
        ("a", 3, 3),
        ("b", 4, None),  # the weights were validated once more after the last epoch
        ("c", 2, None),  # validated in the middle of an epoch, whose last matrix is kept
        ("c", None, None),
    ],
)
def test_epochs_with_equal_matrices_are_told_apart(saved: str, told: int | None, expected: int | None) -> None:
    matrices = {"a": [[3, 1], [0, 4]], "b": [[4, 0], [1, 3]], "c": [[3, 1], [1, 3]]}
    history = MatrixHistory(2)
    for epoch, name in enumerate("aba", 1):
        cells = [(true, guess) for (true, guess), count in np.ndenumerate(matrices[name]) for _ in range(count)]
        history.add(epoch, *np.array(cells).T)
    assert page.best_epoch(history, np.array(matrices[saved]), told) == expected


@pytest.mark.parametrize("stage", ["test", "predict"])
def test_a_page_names_settings_of_a_training_only_where_there_is_one(tmp_path: Path, stage: str) -> None:
    run_dir = make_run(tmp_path / "run", ["a", "b"], test=make_table(["a", "b"], 60), pictures=10)
    for path in list(run_dir.rglob("test*")):
        path.rename(path.with_name(path.name.replace("test", stage)))
    course = run_dir / "report" / "course.json"
    course.write_text(course.read_text().replace("test/", f"{stage}/"))
    text = write_report(run_dir, samples=20).read_text()
    assert "chosen at random" in text and "the highest loss of each cell" in text
    assert ("callbacks.report" in text) == (stage == "test")
