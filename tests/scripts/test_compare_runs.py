import csv
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import compare_runs
import numpy as np
import pytest
import torch
from PIL import Image

from image_classifier.engine.confusion.matrix import to_csv
from image_classifier.engine.errors import UserError

NAMES = ["cat", "dog [large]", "bird"]


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Write what a finished run leaves behind."""

    def make(
        name: str, lr: float, accuracy: float, counts: list[list[int]] | None = None, names: list[str] = NAMES
    ) -> Path:
        run_dir = tmp_path / name
        (run_dir / "confusion_matrix").mkdir(parents=True)
        config = {
            "seed": 1,
            "paths": {"run_dir": str(run_dir)},
            "model": {"optimizer": {"lr": lr}, "sizes": [lr, 1]},
            "callbacks": {"checkpoint": {"dirpath": f"{run_dir}/checkpoints"}},
        }
        (run_dir / "config.yaml").write_text(json.dumps(config))  # JSON is YAML
        (run_dir / "metrics.json").write_text(json.dumps({"test/acc": accuracy, "epochs": 3}))
        if counts:
            (run_dir / "confusion_matrix" / "test.csv").write_text(to_csv(torch.tensor(counts), names))
        return run_dir

    return make


FIRST = [[8, 2, 0], [1, 9, 0], [0, 0, 5]]
SECOND = [[9, 1, 0], [1, 9, 0], [0, 1, 4]]


def test_a_user_sees_tables_and_gets_a_picture(
    make_run: Callable[..., Path], tmp_path: Path, run_script: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    runs = make_run("one", 0.1, 0.88, FIRST), make_run("two", 0.2, 0.9, SECOND)
    picture = tmp_path / "some" / "where.png"
    answer = run_script("scripts/compare_runs.py", *map(str, runs), "--output", str(picture))
    assert answer.returncode == 0, answer.stderr
    for shown in ("model.optimizer.lr", "0.1", "0.2", "test/acc", "0.88", "+0.02", "[0.1, 1]", str(picture)):
        assert shown in answer.stdout
    assert "seed" not in answer.stdout
    assert "dirpath" not in answer.stdout  # each run lies somewhere else
    assert str(picture.with_name("comparison.html")) in answer.stdout
    pixels = np.asarray(Image.open(picture))
    assert min(pixels.shape[:2]) > 300
    assert pixels.std() > 5


def test_csv_holds_the_same(make_run: Callable[..., Path], tmp_path: Path) -> None:
    runs = [make_run(str(job), 0.1 * (job + 1), 0.8) for job in range(3)]  # the jobs of a sweep
    compare_runs.compare(runs, csv_file=tmp_path / "table.csv", page=tmp_path / "page.html")
    names = [f"{tmp_path.name}/{job}" for job in range(3)]
    rows = list(csv.reader((tmp_path / "table.csv").open()))
    assert rows[0] == ["kind", "name", *names]
    assert ["setting", "model.optimizer.lr", "0.1", "0.2", "0.30000000000000004"] in rows
    assert ["metric", "test/acc", "0.8", "0.8", "0.8"] in rows
    assert ["metric", "epochs", "3", "3", "3"] in rows


def test_the_picture_shows_percentage_points(make_run: Callable[..., Path], tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    drawn = []
    from image_classifier.engine.figures import report as draw

    original = draw.draw_difference
    monkeypatch.setattr(draw, "draw_difference", lambda *given: drawn.append(given) or original(*given))
    runs = [make_run("one", 0.1, 0.88, FIRST), make_run("two", 0.2, 0.9, SECOND)]
    compare_runs.compare(runs, tmp_path / "difference.png")
    ((change, names, _),) = drawn
    expected = [[10, -10, 0], [0, 0, 0], [0, 20, -20]]
    np.testing.assert_allclose(change, expected, atol=1e-9)
    assert names == NAMES


def test_runs_without_matrices_are_compared_without_a_picture(
    make_run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compare_runs.compare([make_run("one", 0.1, 0.8), make_run("two", 0.1, 0.9)], tmp_path / "none.png")
    assert "no picture" in capsys.readouterr().out
    assert not (tmp_path / "none.png").exists()


def test_mistakes_are_told(make_run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = make_run("one", 0.1, 0.8, FIRST), make_run("two", 0.2, 0.9, SECOND, ["cat", "cow", "bird"])
    with pytest.raises(UserError, match=r"same classes .*'dog \[large\]'.*'cow'"):
        compare_runs.compare([one, two], tmp_path / "difference.png")
    with pytest.raises(UserError, match="at least two"):
        compare_runs.compare([one])
    with pytest.raises(UserError, match="two runs for a picture"):
        compare_runs.compare([one, one, one], tmp_path / "difference.png")
    with pytest.raises(UserError, match=f"no config.yaml in {tmp_path}; name its jobs, such as {one}"):
        compare_runs.compare([one, tmp_path])
    (one / "metrics.json").unlink()
    with pytest.raises(SystemExit) as ended:
        compare_runs.main([str(one), str(two)])
    assert ended.value.code == 2
    assert "no metrics.json" in capsys.readouterr().err
