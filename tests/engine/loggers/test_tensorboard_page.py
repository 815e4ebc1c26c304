"""What a person sees in the real TensorBoard after a run, by a real browser."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from screenshots import VISIBLE_IMAGES, VISIBLE_TEXT, chromium, tensorboard, wait_for

from image_classifier.engine.project import PROJECT_ROOT
from tiny import TINY_WITH_DRAWINGS


@pytest.fixture
def tiny_overrides() -> tuple[str, ...]:
    return TINY_WITH_DRAWINGS


SCREENSHOTS = PROJECT_ROOT / "outputs" / "test-screenshots"
# The tab of the page's address, and what must be seen there.
SEEN = {
    # The filter opens all groups of pictures; by itself TensorBoard opens the first two.
    "images&tagFilter=test%7Cval": [
        "confusion_matrix/test",
        "confusion_matrix/val",
        "misclassified/test",
        "calibration/test",
    ],
    "scalars&tagFilter=acc%24": ["test/acc", "val/acc", "train/acc", "test/balanced_acc"],
    "custom_scalars": ["recall", "precision", "f1"],
    "hparams": ["Hyperparameters", "optimizer.lr", "data.num_classes", "final/test/acc"],
    "text": ["most_confused/val", "most_confused/test", "true class", "taken for", "class 1", "data.num_classes"],
}


@pytest.mark.slow
@pytest.mark.needs("chromium")
def test_every_tab_shows_the_run(train: Callable[..., Path]) -> None:
    run_dir = train("logger=tensorboard", "model.optimizer.lr=0.001", "callbacks.report=null")
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    missing: dict[str, object] = {}
    with tensorboard(run_dir / "tensorboard") as url, chromium(1400, 1400) as browser:
        for place, expected in SEEN.items():
            tab = place.partition("&")[0]
            browser.get("about:blank")  # or a new address after the # would not load the page anew
            browser.get(f"{url}#{place}")

            def unseen(expected: list[str] = expected) -> list[str]:
                text = browser.execute_script(VISIBLE_TEXT)
                return [words for words in expected if words.lower() not in text.lower()]

            try:
                wait_for(lambda unseen=unseen: not unseen(), f"the tab {tab}", seconds=60)  # type: ignore[misc]
                if tab == "images":
                    check_pictures(wait_for(lambda: four_pictures(browser), "four pictures"))
            except TimeoutError:
                missing[tab] = unseen() or "pictures"
            picture = SCREENSHOTS / f"tensorboard_{tab}.png"
            browser.save_screenshot(str(picture))
            assert np.asarray(Image.open(picture)).std() > 5  # not blank
    assert not missing


def four_pictures(browser) -> list[list]:  # type: ignore[no-untyped-def,type-arg]
    found = [picture for picture in browser.execute_script(VISIBLE_IMAGES) if "individualImage" in picture[0]]
    return found if len(found) >= 4 else []


def check_pictures(found: list[list]) -> None:  # type: ignore[type-arg]
    for _, width, height in found:
        assert min(width, height) >= 8
    assert max(width for _, width, _ in found) > 400
