"""Pages of a training, a test and predictions on pictures of one's own, in a real browser beside the files."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from PIL import Image
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.keys import Keys

from browser_page import Page
from image_classifier import pipeline
from image_classifier.engine.confusion.matrix import from_csv
from image_classifier.engine.launch.checks import check_config
from image_classifier.engine.project import CONFIG_DIR
from image_classifier.engine.runs.sample_table import SampleTable, read_table
from tiny import TINY

pytestmark = pytest.mark.needs("chromium")

NAMES = ("dark side", "left", "right")


def draw(root: Path, seed: int, each: int) -> Path:
    """Noise with a lighter half or none, a fifth in the folder of another kind: mistakes for sure. No two are equal."""
    generator = np.random.default_rng(seed)
    lights = slice(0, 0), slice(0, 6), slice(6, 12)
    for kind, name in enumerate(NAMES):
        (root / name).mkdir(parents=True)
        for index in range(each):
            pixels = generator.integers(0, 160, size=(12, 12, 3), dtype=np.uint8)
            pixels[:, lights[(kind + (index % 5 == 0)) % 3]] += 60
            Image.fromarray(pixels).save(root / name / f"{index} a&b.png")
    return root


def configure(run_dir: Path, config_name: str, *overrides: str) -> DictConfig:
    with initialize_config_dir(CONFIG_DIR):
        cfg = compose(config_name, overrides=[f"paths.run_dir={run_dir}", "trainer=cpu", *overrides])
    check_config(cfg)
    return cfg


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of all three commands: `train`, `eval` and `predict`, the last two on the pictures in `other`."""
    base = tmp_path_factory.mktemp("pictures")
    draw(base / "own", 0, 40)
    draw(base / "other", 1, 15)
    Image.fromarray(np.zeros((12, 12, 3), np.uint8)).save(base / "other" / "loose.png")
    settings = (
        *(
            override
            for override in TINY
            if not override.startswith(("data", "trainer=", "trainer.max_epochs", "callbacks"))
        ),
        *("data=image_folder", f"data.root={base}/own", "data.image_size=12", "data.batch_size=8"),
        *("data.augmentation.flip=0", "trainer.max_epochs=2", "callbacks.learning_rate_monitor=null", "logger=none"),
    )
    pipeline.train(configure(base / "train", "train", *settings))
    checkpoint = f"ckpt_path={base}/train/checkpoints/best.ckpt"
    pipeline.predict(configure(base / "predict", "predict", checkpoint, f"input={base}/other"))
    (base / "other" / "loose.png").unlink()
    pipeline.evaluate(configure(base / "eval", "eval", checkpoint, f"data.root={base}/other"))
    return base


@pytest.fixture(params=["train", pytest.param("eval", marks=pytest.mark.thorough), "predict"])
def shown(request: pytest.FixtureRequest, base: Path, browser: Chrome) -> Iterator[tuple[Page, SampleTable, str]]:
    """A page, what the table of its first stage says, and the command that it is of."""
    command = request.param
    stage = "predict" if command == "predict" else "test"
    table = read_table(base / command, stage, NAMES)
    assert table is not None
    yield Page(browser, base / command / "report" / "report.html"), table, command


def test_pictures_are_those_of_the_files(shown: tuple[Page, SampleTable, str], base: Path) -> None:
    page, table, command = shown
    place = base / ("own" if command == "train" else "other")
    cells = [cell for cell in np.ndindex(3, 3) if ((table.true == cell[0]) & (table.predicted == cell[1])).any()]
    assert any(true != predicted for true, predicted in cells)
    seen = set()
    for true, predicted in cells:
        page.click(page.cell(true, predicted))
        rows = np.flatnonzero((table.true == true) & (table.predicted == predicted))
        expected = rows[np.argsort(-table.loss[rows], kind="stable")]
        assert page.cards("#details") == expected.tolist()
        code = "const c = arguments[0]; return [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]"
        for row, canvas in zip(expected[:3].tolist(), page.all("#details .picture"), strict=False):
            source = Path(table.samples[row])
            assert source.resolve().is_relative_to(place.resolve()) and source.parent.name == NAMES[true]
            pixels = np.array(page.script(code, canvas)).reshape(12, 12, 4)
            assert np.array_equal(pixels[..., :3], np.asarray(Image.open(source)))
            seen.add(row)
    assert len(seen) >= 6


def test_the_path_is_copied(shown: tuple[Page, SampleTable, str], browser: Chrome) -> None:
    page, table, _ = shown
    true, predicted = int(table.true[0]), int(table.predicted[0])
    page.click(page.cell(true, predicted))
    row = page.cards("#details")[0]
    page.click(page.find("#details .copy"))
    page.click(page.find("#search"))
    ActionChains(browser).key_down(Keys.CONTROL).send_keys("v").key_up(Keys.CONTROL).perform()
    assert page.find("#search").get_property("value") == table.samples[row]
    assert Path(table.samples[row]).is_file()


def test_the_matrix_is_the_saved_one(shown: tuple[Page, SampleTable, str], base: Path) -> None:
    page, table, command = shown
    stage = "predict" if command == "predict" else "test"
    counts, names = from_csv((base / command / "confusion_matrix" / f"{stage}.csv").read_text())
    assert tuple(names) == NAMES
    assert np.array_equal(counts.numpy(), table.counts())
    for true, predicted in np.ndindex(3, 3):
        count = int(counts[true, predicted])
        label = page.cell(true, predicted).get_attribute("aria-label") or ""
        assert label.endswith(f": {count} sample{'s' * (count != 1)}")
    if command == "predict":
        assert "1 samples without a label are not counted" in page.text("#notes")
        assert page.text("#shown").startswith("Pictures, by their folders: 45 samples")
