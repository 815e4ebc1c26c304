"""Make the README's pictures from a run: confusion matrix, report page, pictures of a cell, TensorBoard as one sees it.

    python scripts/screenshots.py [RUN]

RUN is a run directory with `logger=tensorboard`, such as outputs/train/2030-01-31_12-00-00-000000; by default the
latest. Needs Chromium and its driver (Debian: apt-get install chromium chromium-driver).
"""

import argparse
import contextlib
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from selenium.webdriver import Chrome, ChromeOptions, ChromeService

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "docs" / "pictures"
CHROMIUM_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
# TensorBoard builds its page from nested shadow roots, which the browser's own search does not enter.
ALL_ELEMENTS = """
function* walk(root) {
  for (const element of root.querySelectorAll('*')) {
    yield element;
    if (element.shadowRoot) yield* walk(element.shadowRoot);
  }
}
const shown = element => { const box = element.getBoundingClientRect(); return box.width > 0 && box.height > 0; };
"""
VISIBLE_TEXT = (
    ALL_ELEMENTS
    + """
const texts = [document.body.innerText];
for (const element of walk(document)) if (element.shadowRoot)
  for (const child of element.shadowRoot.children)
    if (shown(child) && !['STYLE', 'SCRIPT'].includes(child.tagName)) texts.push(child.innerText);
return texts.join('\\n');
"""
)
VISIBLE_IMAGES = (
    ALL_ELEMENTS
    + """
return [...walk(document)].filter(element => element.tagName === 'IMG' && element.naturalWidth > 0 && shown(element))
  .map(element => [element.src, element.naturalWidth, element.naturalHeight]);
"""
)

READY = "return document.querySelector('#explorer[data-ready]') !== null"
OPEN_MOST_CONFUSED = """
document.getElementById("hide-diagonal").click();
document.querySelector("#confused button").click();
document.getElementById("explorer").scrollIntoView();
"""

# The tabs' elements lie in shadow roots.
SHOW_ACTUAL_SIZE = """
function search(root) {
  for (const element of root.querySelectorAll("*")) {
    if (element.matches("paper-checkbox") && element.textContent.includes("actual image size")) element.click();
    if (element.shadowRoot) search(element.shadowRoot);
  }
}
search(document);
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path, help="run directory")
    run_dir = parser.parse_args().run or latest_run()
    report = run_dir / "report"
    if not (report / "report.html").is_file():
        sys.exit(f"error: expected a run with a report but found none in {run_dir}; train first: make train")
    PICTURES.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(report / "confusion_matrix_test.png", PICTURES / "confusion_matrix.png")
    with chromium(1400, 1100) as browser:
        browser.get((report / "report.html").resolve().as_uri())
        wait_for(lambda: browser.execute_script(READY), "the report's matrix")
        browser.save_screenshot(str(PICTURES / "report.png"))
        browser.execute_script(OPEN_MOST_CONFUSED)  # the pictures behind a cell
        time.sleep(1)
        browser.save_screenshot(str(PICTURES / "gallery.png"))
        with tensorboard(run_dir / "tensorboard") as url:
            browser.get(f"{url}#images&tagFilter=confusion_matrix%2Ftest")
            wait_for(lambda: len(browser.execute_script(VISIBLE_IMAGES)) >= 1, "a picture in TensorBoard")
            browser.execute_script(SHOW_ACTUAL_SIZE)  # else the numbers in the cells cannot be read
            time.sleep(2)
            browser.set_window_size(1400, 1180)
            browser.save_screenshot(str(PICTURES / "tensorboard_images.png"))
    print(f"Pictures: {', '.join(str(path) for path in sorted(PICTURES.glob('*.png')))}")


def latest_run() -> Path:
    runs = sorted((ROOT / "outputs" / "train").glob("*/report"))
    if not runs:
        sys.exit("error: expected a run in outputs/train but found none; train first: make train")
    return runs[-1].parent


@contextlib.contextmanager
def tensorboard(directory: Path) -> Iterator[str]:
    """Serve a log directory; gives the URL."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", directory.name]  # the page shows it
    command += ["--host", "127.0.0.1", "--port", "0", "--samples_per_plugin", "images=100"]
    server = subprocess.Popen(command, cwd=directory.parent, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        said = []
        for line in server.stderr:  # it tells its port when it is ready
            said.append(line)
            if found := re.search(r"http://127\.0\.0\.1:\d+/", line):
                yield found.group()
                return
        raise RuntimeError(f"Expected TensorBoard to serve {directory} but it said: {''.join(said)}")
    finally:
        server.terminate()
        server.wait()


@contextlib.contextmanager
def chromium(width: int, height: int) -> Iterator[Chrome]:
    """A browser without a window, of so many pixels."""
    paths = [shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")]
    if None in paths:
        raise RuntimeError(
            "Expected Chromium and its driver but found "
            f"chromium={paths[0]}, chromedriver={paths[1]}; on Debian: apt-get install chromium chromium-driver"
        )
    options = ChromeOptions()
    options.binary_location = str(paths[0])
    for flag in (*CHROMIUM_FLAGS, f"--window-size={width},{height}"):
        options.add_argument(flag)
    browser = Chrome(options, ChromeService(str(paths[1])))
    try:
        yield browser
    finally:
        browser.quit()


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 60) -> Any:
    """Wait until a condition holds; gives its value.

    Raises:
        TimeoutError: It never did.
    """
    end = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > end:
            raise TimeoutError(f"Expected {what} within {seconds} s")
        time.sleep(0.05)
    return value


if __name__ == "__main__":
    main()
