"""The explorer of the confusion matrix: how large its page is, how soon it opens and answers, what writing it costs.

python benchmarks/explorer.py

Needs Chromium and its driver. The same matrix in plotly and in Vega is measured where the packages `plotly` (with
`narwhals`) and `vl-convert-python` are installed.
"""

from common import Row, alternate, seconds, write_results

# isort: split
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from selenium.webdriver import ActionChains, Chrome
from torchmetrics.classification import MulticlassConfusionMatrix

from image_classifier import pipeline
from image_classifier.callbacks.predictions import Predictions
from image_classifier.callbacks.report import Report
from image_classifier.engine.confusion.history import MatrixHistory
from image_classifier.engine.confusion.matrix import to_csv
from image_classifier.engine.figures.confusion_matrix import draw_confusion_matrix, to_array
from image_classifier.engine.launch.assembly import make_datamodule
from image_classifier.engine.launch.configuration import CONFIG_DIR  # and registers the resolvers
from image_classifier.engine.runs.page import read_matrix, save_course, write_report
from image_classifier.engine.runs.sample_table import SampleTable, write_table
from image_classifier.engine.runs.thumbnails import choose_samples, make_atlas, save_atlas

sys.path.append(str(Path(__file__).parents[1] / "scripts"))
from screenshots import chromium, wait_for

CLASSES, SAMPLES, EPOCHS = 1000, 50_000, 10  # of the large page
PICTURES = 2000
OPENINGS = 9
CLICKS = 20
FRAMES = 60

# Notes when a page is ready and the browser has drawn it, and how long after a click the next frame is drawn.
WATCH = """
window.watched = { clicks: [] };
const drawn = act => requestAnimationFrame(() => setTimeout(() => act(performance.now())));
const ready = new MutationObserver(() => {
  if (!document.querySelector('[data-ready="true"]')) return;
  ready.disconnect();
  drawn(now => { watched.interactive = now; });
});
ready.observe(document, { subtree: true, attributes: true, attributeFilter: ['data-ready'] });
addEventListener('click', event => drawn(now => watched.clicks.push(now - event.timeStamp)), { capture: true });
"""
TELL_READY = "document.body.dataset.ready = 'true';"
FIRST_PAINT = "return performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
SCROLL = """
const [frames, done] = arguments, scroller = document.querySelector('.matrix-scroller');
document.getElementById('explorer').scrollIntoView();
const times = [];
const advance = now => {
  times.push(now);
  scroller.scrollLeft += 37;
  scroller.scrollTop += 37;
  if (times.length <= frames) requestAnimationFrame(advance);
  else done(times.slice(1).map((time, index) => time - times[index]));
};
requestAnimationFrame(advance);
"""
CELLS = "return [...document.querySelectorAll('.cell')].map(cell => [cell.dataset.true, cell.dataset.predicted])"
HOOKS = (
    *(f"on_{stage}_{hook}" for stage in ("validation", "test") for hook in ("epoch_start", "batch_end", "epoch_end")),
    "on_validation_end",
)


def default_run(run_dir: str) -> tuple[list[float], float, list[float]]:
    """Train the default experiment; gives seconds in the table of predictions, in all, and in the report."""
    table: list[float] = []
    report: list[float] = []

    def timed(kind: type, name: str, spent: list[float]) -> Callable[..., Any]:
        hook = getattr(kind, name)

        def call(*args: Any) -> Any:
            start = time.perf_counter()
            try:
                return hook(*args)
            finally:
                spent.append(time.perf_counter() - start)

        return call

    with initialize_config_dir(CONFIG_DIR):
        cfg = compose("train", overrides=[f"paths.run_dir={run_dir}", "callbacks.progress_bar=null"])
        # The end of the run is a bound method that the report hands over when it is made: patched before.
        with (
            patch.multiple(Predictions, **{name: timed(Predictions, name, table) for name in HOOKS}),
            patch.object(Report, "write", timed(Report, "write", report)),
        ):
            total = seconds(lambda: pipeline.train(cfg))
    return table, total, report


def large_run(run_dir: Path, images: np.ndarray) -> Path:
    """A run that was tested on many samples of many classes: right on eight of ten, confused with its neighbours.

    Args:
        run_dir: Where it shall lie.
        images: (N, C, H, W) uint8, real ones for its pictures.
    """
    names = tuple(f"class {index}" for index in range(CLASSES))
    tables = [random_table(names, seed) for seed in range(EPOCHS)]
    write_table(run_dir, "test", tables[0])
    chosen = choose_samples(tables[0], PICTURES)
    save_atlas(run_dir, "test", make_atlas(chosen, lambda rows: images[rows % len(images)]))
    history = MatrixHistory(CLASSES)
    for epoch, table in enumerate(tables, 1):
        history.add(epoch, table.true, table.predicted)
    (run_dir / "confusion_matrix").mkdir()
    (run_dir / "confusion_matrix" / "test.csv").write_text(to_csv(torch.from_numpy(tables[0].counts()), names))
    (run_dir / "confusion_matrix" / "val_epochs.npz").write_bytes(history.to_bytes())
    metrics = {"test/acc": float((tables[0].true == tables[0].predicted).mean())}
    save_course(run_dir, metrics=metrics, epochs=[], learning_rates=[], facts={})
    return write_report(run_dir)


def random_table(names: tuple[str, ...], seed: int) -> SampleTable:
    generator = np.random.default_rng(seed)
    true = generator.integers(0, CLASSES, SAMPLES)
    near = (true + generator.geometric(0.1, SAMPLES) * generator.choice([-1, 1], SAMPLES)) % CLASSES
    predicted = np.where(generator.random(SAMPLES) < 0.8, true, near)
    confidence = generator.beta(5, 2, SAMPLES).astype(np.float32)
    loss = np.where(true == predicted, -np.log(confidence), 2 - np.log(1 - confidence)).astype(np.float32)
    samples = [str(index) for index in range(SAMPLES)]
    return SampleTable(samples, true, predicted, confidence, loss, (predicted + 1) % CLASSES, names)


@contextlib.contextmanager
def watched_browser() -> Iterator[Chrome]:
    with chromium(1400, 1000) as browser:
        browser.execute_cdp_cmd("Page.enable", {})
        browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": WATCH})
        yield browser


def open_page(browser: Chrome, page: Path) -> tuple[float, float]:
    """Seconds from the start until the first paint, and until all is drawn and listens."""
    browser.get(page.as_uri())
    interactive = wait_for(lambda: browser.execute_script("return watched.interactive"), f"{page.name} to be ready")
    painted = wait_for(lambda: browser.execute_script(FIRST_PAINT), f"{page.name} to be painted")
    return painted / 1e3, interactive / 1e3


def opening(browser: Chrome, what: str, page: Path, target: float | None, times: int = OPENINGS) -> list[Row]:
    open_page(browser, page)
    painted, ready = zip(*(open_page(browser, page) for _ in range(times)), strict=True)
    note = f"first paint {statistics.median(painted):.2g} s; {min(ready):.2g} to {max(ready):.2g} s"
    return [Row(f"{what}: opened and ready", statistics.median(ready), "s", target, samples=times, note=note)]


def size(what: str, page: Path, target: float | None, note: str = "") -> Row:
    return Row(f"{what}: size", page.stat().st_size / 1e6, "MB", target, note=note)


def clicking(browser: Chrome, what: str) -> Row:
    """From a click on a cell until its pictures are drawn."""
    cells = browser.execute_script(CELLS)
    browser.execute_script("watched.clicks.length = 0")
    for true, predicted in cells[:: max(1, len(cells) // CLICKS)][:CLICKS]:
        find = f'return document.querySelector(\'.cell[data-true="{true}"][data-predicted="{predicted}"]\')'
        browser.execute_script("document.getElementById('matrix').scrollIntoView()")
        ActionChains(browser).move_to_element(browser.execute_script(find)).click().perform()
        time.sleep(0.15)
    took = browser.execute_script("return watched.clicks")
    note = f"longest {max(took):.3g} ms"
    return Row(f"{what}: a click on a cell answered", statistics.median(took), "ms", 100, samples=len(took), note=note)


def explore_large(browser: Chrome, what: str) -> list[Row]:
    """Clicks and scrolling in the part of a large matrix where the names can be read."""
    browser.execute_script(
        "const box = document.getElementById('search'); box.value = 'class 500';"
        "box.dispatchEvent(new Event('input', { bubbles: true }))"
    )
    time.sleep(0.5)
    rows = [clicking(browser, what)]
    for where, button in (("names in sight", None), ("all in sight, zoomed in once", "zoom-fit")):
        if button:
            browser.execute_script("document.getElementById('zoom-fit').click()")
            browser.execute_script("document.getElementById('zoom-in').click()")
        browser.execute_script("document.querySelector('.matrix-scroller').scrollTo(0, 0)")
        time.sleep(0.5)
        frames = browser.execute_async_script(SCROLL, FRAMES)
        note = f"{where}; longest {max(frames):.3g} ms"
        question = f"{what}: a frame while scrolling, {where}"
        rows.append(Row(question, statistics.median(frames), "ms", None, samples=FRAMES, note=note))
    return rows


def plotly_page(counts: np.ndarray, names: Sequence[str], path: Path) -> Path:
    import plotly.graph_objects as go

    figure = go.Figure(go.Heatmap(z=counts, x=list(names), y=list(names), colorscale="Blues"))
    path.write_text(figure.to_html(include_plotlyjs=True, post_script=TELL_READY), encoding="utf-8")
    return path


def vega_page(counts: np.ndarray, names: Sequence[str], path: Path) -> Path:
    """The cells that are not empty as coloured squares, as W&B's own chart of a confusion matrix has them."""
    import vl_convert

    cells = [
        {"Actual": names[true], "Predicted": names[predicted], "nPredictions": int(counts[true, predicted])}
        for true, predicted in np.argwhere(counts).tolist()
    ]
    axis = {"type": "nominal", "sort": list(names)}
    spec = {
        "width": 800,
        "height": 800,
        "data": {"values": cells},
        "mark": {"type": "rect", "tooltip": True},
        "encoding": {
            "x": {"field": "Predicted", **axis},
            "y": {"field": "Actual", **axis},
            "color": {"field": "nPredictions", "type": "quantitative"},
        },
    }
    html = vl_convert.vegalite_to_html(spec, bundle=True, renderer="canvas")
    assert ".catch(console.error)" in html
    path.write_text(html.replace(".catch(console.error)", f".then(() => {{ {TELL_READY} }})"), encoding="utf-8")
    return path


def compare_libraries(browser: Chrome, counts: np.ndarray, names: Sequence[str], directory: Path) -> list[Row]:
    """Pages of two libraries with the same matrix and nothing else: no pictures, no epochs, no thresholds."""
    rows = []
    for library, write in (("plotly", plotly_page), ("Vega", vega_page)):
        what = f"{len(counts)} classes, {library}'s heat map alone"
        try:
            page = write(counts, names, directory / f"{library}_{len(counts)}.html")
        except ImportError as error:
            rows.append(Row(what, None, "s", None, note=f"needs {error.name}"))
            continue
        rows += [size(what, page, None), *opening(browser, what, page, None, times=3)]
    return rows


def draw_with_torchmetrics(counts: np.ndarray, text: bool) -> None:
    metric = MulticlassConfusionMatrix(len(counts))
    metric.confmat = torch.from_numpy(counts)
    metric._update_count = 1
    figure = Figure()
    FigureCanvasAgg(figure)
    metric.plot(ax=figure.add_subplot(), labels=[f"class {index}" for index in range(len(counts))], add_text=text)
    to_array(figure)


def compare_pictures(counts: np.ndarray, names: Sequence[str], run_dir: Path, text: bool) -> Row:
    """Writing the whole page beside drawing the picture alone."""
    ours = partial(write_report, run_dir)
    value, note = alternate(ours, lambda: draw_with_torchmetrics(counts, text), 3)
    how = "with" if text else "without"
    question = f"{len(counts)} classes: writing page and pictures against torchmetrics' plot alone, {how} text"
    drawing = statistics.median(
        seconds(lambda: draw_confusion_matrix(torch.from_numpy(counts), names, "none", "test")) for _ in range(3)
    )
    return Row(question, value, "x", None, samples=3, note=f"{note}; of ours the picture is {drawing:.2g} s")


def main() -> list[Row]:
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary)
        table, total, report = default_run(str(base / "default"))
        page = base / "default" / "report" / "report.html"
        rows = [
            Row("writing report and predictions in the default run", 100 * (sum(table) + sum(report)) / total, "%", 2,
                note=f"report {sum(report):.2g} s, predictions {sum(table):.2g} s of {total:.3g} s"),
            size("default run", page, 2),
        ]  # fmt: skip
        with initialize_config_dir(CONFIG_DIR):
            datamodule = make_datamodule(compose("train"))
        datamodule.setup("test")
        images = datamodule.stored_images("test", torch.arange(10_000)).numpy()
        what = f"{CLASSES:,} classes, {SAMPLES:,} samples"
        large = base / "large"
        spent = seconds(lambda: large_run(large, images))
        rows.append(size(what, large / "report" / "report.html", 8, f"with {EPOCHS} epochs; made in {spent:.2g} s"))
        with watched_browser() as browser:
            rows += opening(browser, "default run", page, 0.5)
            rows.append(clicking(browser, "default run"))
            rows += opening(browser, what, large / "report" / "report.html", 1.5)
            rows += explore_large(browser, what)
            for run_dir, text in ((base / "default", True), (large, False)):
                matrix = read_matrix(run_dir, "test")
                assert matrix is not None
                rows += compare_libraries(browser, *matrix, base)
                rows.append(compare_pictures(*matrix, run_dir, text))
    write_results("explorer", rows)
    return rows


if __name__ == "__main__":
    main()
