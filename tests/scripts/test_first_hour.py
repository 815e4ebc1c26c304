"""The page of the first hour: short enough, and its script tells when a command or a result is not as it should be.

`.ci/run` does all that the page says; here the script follows small pages.
"""

import csv
import re
import subprocess
import sys
from pathlib import Path

import first_hour
import pytest
from first_hour import PAGE, as_shown, follow, verify
from leaves import OUTLINES, draw_leaves
from PIL import Image

from image_classifier.engine.project import PROJECT_ROOT

RUN = "2026-11-26_16-31-38-542984"


def test_three_commands_and_no_edit_lead_to_the_matrix() -> None:
    before = PAGE.read_text().partition("pictures/first_hour.png")[0]
    commands = re.findall(r"^\$ (.*)", before, re.MULTILINE)
    looked, typed = commands[:1], commands[1:]
    assert looked[0].startswith("ls ") and len(typed) <= 3 and typed[-1].startswith("make train ARGS=")
    assert not re.search(r"^\$ .*(\bsed\b|\bnano\b|\bvim?\b| >|\btee\b|\bcp\b)", before, re.MULTILINE)
    assert (PROJECT_ROOT / "docs" / "pictures" / "first_hour.png").is_file()


def test_ci_repeats_the_page() -> None:
    assert "scripts/first_hour.py --check" in (PROJECT_ROOT / ".ci" / "run").read_text()


def test_commands_share_directory_and_environment_and_their_output_is_put_below(tmp_path: Path) -> None:
    old = "2026-01-31_12-00-00-000000"
    page = f"""# A page
```console
$ mkdir -p leaf_sorter/outputs/train/{RUN}
$ cd leaf_sorter
what was printed before
$ pwd; kind=birch
$ echo $kind of outputs/train/{old}; echo told >&2
```
Between.
```bash
$ not run
```
"""
    written, run = follow(page, tmp_path)
    assert run == tmp_path / "leaf_sorter" / "outputs" / "train" / RUN
    assert "$ pwd; kind=birch\n/home/me/leaf_sorter\n" in written and "printed before" not in written
    assert f"of outputs/train/{RUN}; echo told >&2\nbirch of outputs/train/{RUN}\ntold\n```" in written
    assert "Between.\n```bash\n$ not run\n```\n" in written and written.startswith("# A page\n```console\n$ mkdir")
    assert follow(written, tmp_path)[0] == written


def test_a_long_output_is_cut_in_the_middle(tmp_path: Path) -> None:
    shown = list(as_shown("\n".join(map(str, range(100))), tmp_path))
    assert shown[0] == "0" and shown[-1] == "99" and "..." in shown and len(shown) < 50


def test_a_command_that_fails_ends_it_and_the_page_stays(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    text = "```console\n$ true\n$ ls photos/nothing_of_the_kind\n$ echo never\n```\n"
    page.write_text(text)
    script = PROJECT_ROOT / "scripts" / "first_hour.py"
    done = subprocess.run([sys.executable, script, "--page", page], capture_output=True, text=True)
    assert done.returncode == 1 and "`ls photos/nothing_of_the_kind` ended with status 2" in done.stderr
    assert "never" not in done.stdout and page.read_text() == text


@pytest.fixture
def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a run over all of the page leaves, with ten pictures of each tree; returns the run's directory."""
    monkeypatch.setattr(first_hour, "PER_CLASS", 10)
    draw_leaves(tmp_path / "photos", 10)
    run = tmp_path / "leaf_sorter" / "outputs" / "train" / RUN
    predictions = run.parents[1] / "predict" / RUN / "predictions.csv"
    for path in (run / "checkpoints" / "best.onnx", run / "checkpoints" / "best.pt2", run / "report" / "report.html"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    write_csv(predictions, [["file"], *[["a"]] * len(OUTLINES) * first_hour.NEW])
    trees = sorted(OUTLINES)
    write_csv(
        run / "confusion_matrix" / "test.csv",
        [["true", *trees], *([tree, *(2 * (other == tree) for other in trees)] for tree in trees)],
    )
    return run


def write_csv(path: Path, rows: list[list[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def test_results_are_looked_at(finished: Path, tmp_path: Path) -> None:
    verify(finished, tmp_path)
    matrix = finished / "confusion_matrix" / "test.csv"
    good = matrix.read_text()
    for spoilt, told in (
        (good.replace("birch,2", "birch,1"), "a fifth of the pictures is tested"),
        (good.replace("birch", "beech"), "the trees are the classes of the matrix"),
        ("true,birch,ginkgo,maple,oak,willow\n" + "birch,0,10,0,0,0\n", "more than half of them are classified right"),
    ):
        matrix.write_text(spoilt)
        with pytest.raises(SystemExit, match=told):
            verify(finished, tmp_path)
    matrix.write_text(good)
    (finished / "checkpoints" / "best.onnx").unlink()
    with pytest.raises(SystemExit, match="the network is exported"):
        verify(finished, tmp_path)


def test_leaves_are_pictures_of_many_kinds_and_the_same_each_time(tmp_path: Path) -> None:
    draw_leaves(tmp_path / "one", 5)
    draw_leaves(tmp_path / "two", 5)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.*"))
    assert len(files) == 25 and {path.suffix for path in files} == {".jpg", ".png", ".webp"}
    sizes = set()
    for path in files:
        assert (tmp_path / "one" / path).read_bytes() == (tmp_path / "two" / path).read_bytes()
        with Image.open(tmp_path / "one" / path) as image:
            image.load()
            sizes.add(image.size)
    assert len(sizes) > 20
