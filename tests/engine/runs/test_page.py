import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from image_classifier.engine.figures.report import draw_learning_curves
from image_classifier.engine.runs import page

HOSTILE = ['<script src="http://x.example/a.js"></script>', "a & b", "quo\"te's", "plain"]
VOID = {"meta", "img", "link", "br", "hr"}


class Page(HTMLParser):
    """Collects what a browser would load and show, and checks that tags are closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.images: list[str] = []
        self.text = ""
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        given = dict(attributes)
        assert not [name for name in given if name.startswith("on")]
        self.links += [value or "" for name, value in given.items() if name in ("src", "href", "srcset", "data")]
        if tag == "img":
            assert given["alt"]
            self.images.append(given["src"] or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def write(directory: Path, names: list[str], stages: tuple[str, ...] = ("val", "test")) -> str:
    counts = torch.randint(1, 9, (len(names), len(names)), generator=torch.Generator().manual_seed(0))
    picture = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    path = page.write_report(
        directory,
        title="run <1>",
        metrics={"test/acc": 0.91234, "epochs": 3},
        matrices=dict.fromkeys(stages, (counts, names)),
        curves=draw_learning_curves([{"epoch": 1, "val/loss": 1.0}, {"epoch": 2, "val/loss": 0.5}], [(0, 0.1), (1, 0)]),
        gallery={"test": picture},
        calibration={"test": picture},
        facts={"command": "train.py data.root='<a>'", "git commit": "abc"},
        configuration="data:\n  name: <img src=http://x.example/b.png>\n",
    )
    assert path == directory / "report.html"
    return path.read_text()


def test_page_needs_nothing_but_itself(tmp_path: Path) -> None:
    shown = Page(write(tmp_path, HOSTILE))
    assert "script" not in shown.tags
    assert "link" not in shown.tags
    assert len(shown.images) == 5  # the curves; the matrices of two stages; gallery and calibration
    assert shown.links == shown.images
    for source in shown.images:
        kind, content = source.split(",", 1)
        assert kind == "data:image/png;base64"
        picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(content, validate=True))))
        assert picture.std() > 5  # not blank


def test_names_are_shown_as_they_are(tmp_path: Path) -> None:
    html = write(tmp_path, HOSTILE)
    assert 'x.example/a.js"></script>' not in html
    text = Page(html).text
    for name in (*HOSTILE, "run <1>", "data.root='<a>'", "name: <img src=http://x.example/b.png>", "0.9123"):
        assert name in text


def test_figures_of_a_class_are_bars_of_their_length(tmp_path: Path) -> None:
    html = write(tmp_path, ["cat", "dog"], stages=("test",))
    counts = torch.randint(1, 9, (2, 2), generator=torch.Generator().manual_seed(0)).double()
    precision, recall = counts.diagonal() / counts.sum(0), counts.diagonal() / counts.sum(1)
    expected = torch.stack([precision, recall, 2 * precision * recall / (precision + recall)], 1).flatten()
    bars = re.findall(r'style="background-size: ([0-9.]+)%">([0-9.]+)<', html)
    assert [float(text) for _, text in bars] == pytest.approx(expected.tolist(), abs=5.1e-5)
    assert [float(length) / 100 for length, _ in bars] == pytest.approx(expected.tolist(), abs=5.1e-5)


def test_pictures_lie_beside_the_page(tmp_path: Path) -> None:
    images = Page(write(tmp_path, HOSTILE)).images
    embedded = {base64.b64decode(source.split(",")[1]) for source in images}
    assert {path.read_bytes() for path in tmp_path.glob("*.png")} == embedded


@pytest.mark.parametrize("number", [2, 1000])
def test_any_number_of_classes_fits(tmp_path: Path, number: int) -> None:
    names = [f"class {index}" for index in range(number)]
    html = write(tmp_path, names, stages=("test",))
    text = Page(html).text
    rows = html.count('<tr><td class="name">')
    assert rows == min(number, 50) + min(10, number * (number - 1))
    assert ("50 of" in text) == (number > 50)
    assert len(html) < 3_000_000
    for path in tmp_path.glob("*.png"):
        assert max(Image.open(path).size) < 3500


def test_the_hardest_of_many_classes_are_shown() -> None:
    counts = torch.eye(100, dtype=torch.int64) * 10
    counts[7, 8] = 90  # class 7: F1 18 / 110, class 8: 20 / 110
    counts[3, 3] = 0  # absent: not hard, but unknown
    text = page.class_tables(counts, [f"class {index}" for index in range(100)])
    assert [row[0] for row in text["classes"][:2]] == ["class 7", "class 8"]
    assert "class 3" not in [row[0] for row in text["classes"]]
