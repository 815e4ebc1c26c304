"""The page of a run in Firefox, driven by WebDriver BiDi, which needs no driver beside the browser."""

import itertools
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import websocket  # of selenium's
from screenshots import wait_for
from sklearn.metrics import confusion_matrix

from handmade import make_run, make_table
from image_classifier.engine.runs.page import write_report
from image_classifier.engine.runs.sample_table import SampleTable

pytestmark = [pytest.mark.slow, pytest.mark.needs("firefox")]

NAMES = ("cat", "dog & co", "ünï", '<b onclick="alert(1)">')
ENTER, RIGHT, DOWN = "\ue007", "\ue014", "\ue015"


class Firefox:
    """A page in Firefox, and what it complains about and asks for."""

    def __init__(self, address: str, page: Path) -> None:
        self.socket = websocket.create_connection(f"{address}/session", timeout=60, suppress_origin=True)
        self.numbers = itertools.count()
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.call("session.new", capabilities={})
        self.call("session.subscribe", events=["log.entryAdded", "network.beforeRequestSent"])
        self.tab = self.call("browsingContext.getTree")["contexts"][0]["context"]
        self.call("browsingContext.setViewport", context=self.tab, viewport={"width": 1400, "height": 1000})
        self.call("browsingContext.navigate", context=self.tab, url=page.as_uri(), wait="complete")
        ready = "document.querySelector('#explorer[data-ready=\"true\"] .cell') !== null"
        self.script(f"new Promise(done => {{ const look = () => {ready} ? done() : setTimeout(look, 20); look(); }})")

    def call(self, method: str, **parameters: Any) -> Any:
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while (message := json.loads(self.socket.recv())).get("id") != number:
            if message["method"] == "log.entryAdded" and message["params"]["level"] == "error":
                self.errors.append(message["params"]["text"])
            elif message["method"] == "network.beforeRequestSent":
                self.requests.append(message["params"]["request"]["url"])
        assert message["type"] == "success", message
        return message["result"]

    def script(self, code: str) -> Any:
        """The value of an expression, awaited, by way of JSON."""
        expression = f"(async () => JSON.stringify((await ({code})) ?? null))()"
        parameters = {"expression": expression, "target": {"context": self.tab}, "awaitPromise": True}
        answer = self.call("script.evaluate", **parameters)
        assert answer["type"] == "success", answer
        return json.loads(answer["result"]["value"])

    def act(self, kind: str, actions: list[dict[str, Any]]) -> None:
        source = {"type": kind, "id": kind, "actions": actions}
        self.call("input.performActions", context=self.tab, actions=[source])
        self.script("new Promise(done => setTimeout(() => requestAnimationFrame(() => done()), 90))")

    def click(self, selector: str) -> None:
        """With the mouse, at the middle of an element."""
        element = f"document.querySelector({json.dumps(selector)})"
        self.script(f"{element}.scrollIntoView({{block: 'center'}})")
        box = self.script(f"{element}.getBoundingClientRect()")
        place = {"x": int(box["x"] + box["width"] / 2), "y": int(box["y"] + box["height"] / 2)}
        buttons = [{"type": name, "button": 0} for name in ("pointerDown", "pointerUp")]
        self.act("pointer", [{"type": "pointerMove", **place}, *buttons])

    def press(self, keys: str) -> None:
        self.act("key", [{"type": name, "value": key} for key in keys for name in ("keyDown", "keyUp")])

    def text(self, selector: str) -> str:
        return self.script(f"document.querySelector({json.dumps(selector)}).innerText")

    def cards(self) -> list[int]:
        return self.script("[...document.querySelectorAll('#details .card')].map(card => +card.dataset.row)")


@pytest.fixture(scope="module")
def table() -> SampleTable:
    return make_table(NAMES, 500)


@pytest.fixture(scope="module")
def firefox(tmp_path_factory: pytest.TempPathFactory, table: SampleTable) -> Iterator[Firefox]:
    base = tmp_path_factory.mktemp("firefox")
    epochs = [make_table(NAMES, 200, seed=7, sure=sure) for sure in (0.2, 1.5)]
    run_dir = make_run(base / "run", NAMES, test=table, val=epochs[1], epochs=epochs)
    write_report(run_dir)
    (base / "profile").mkdir()
    command = ["firefox", "--headless", "--no-remote", "--profile", str(base / "profile"), "--remote-debugging-port=0"]
    said = base / "said.txt"
    with said.open("w") as file, subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=file) as process:
        try:
            listening = re.compile(r"BiDi listening on (ws://\S+)\n")
            wait_for(lambda: listening.search(said.read_text()), "Firefox")
            yield Firefox(listening.findall(said.read_text())[0], run_dir / "report" / "report.html")
        finally:
            process.kill()


def worst_first(table: SampleTable, true: int, predicted: int) -> list[int]:
    rows = np.flatnonzero((table.true == true) & (table.predicted == predicted))
    return rows[np.argsort(-table.loss[rows], kind="stable")].tolist()


def test_the_matrix_is_that_of_the_table(firefox: Firefox, table: SampleTable) -> None:
    cells = firefox.script(
        "[...document.querySelectorAll('.cell')].map(cell => "
        "[+cell.dataset.true, +cell.dataset.predicted, cell.getAttribute('aria-label')])"
    )
    counts = np.full((len(NAMES), len(NAMES)), -1)
    for true, predicted, label in cells:
        name, count = re.fullmatch(r"true (.*), predicted .*: (\d+) samples?", label).groups()  # type: ignore[union-attr]
        assert name == NAMES[true]
        counts[true, predicted] = int(count)
    assert np.array_equal(counts, confusion_matrix(table.true, table.predicted))


def test_a_cell_opens_by_mouse_and_by_keyboard(firefox: Firefox, table: SampleTable) -> None:
    firefox.click('.cell[data-true="2"][data-predicted="1"]')
    assert firefox.text("#details h3") == f"{NAMES[2]} taken for {NAMES[1]}"
    assert firefox.cards() == worst_first(table, 2, 1)
    firefox.script("document.querySelector('.cell[tabindex=\"0\"]').focus()")
    firefox.press(DOWN + RIGHT + ENTER)
    assert firefox.text("#details h3") == f"{NAMES[3]} taken for {NAMES[2]}"
    assert firefox.cards() == worst_first(table, 3, 2)


def test_the_matrix_goes_through_the_epochs(firefox: Firefox) -> None:
    firefox.script("document.querySelector('#epoch').focus()")
    firefox.press("\ue011")  # Home
    first = make_table(NAMES, 200, seed=7, sure=0.2)
    accuracy = 100 * float((first.true == first.predicted).mean())
    assert f"200 samples, accuracy {accuracy:.1f} %" in firefox.text("#shown")


def test_it_prints(firefox: Firefox) -> None:
    printed = firefox.call("browsingContext.print", context=firefox.tab, background=True)["data"]
    assert printed.startswith("JVBERi") and len(printed) > 20_000  # %PDF-


def test_nothing_goes_wrong_and_nothing_goes_out(firefox: Firefox) -> None:
    assert firefox.errors == []
    assert firefox.requests and all(re.match(r"file:|data:|blob:", address) for address in firefox.requests)
