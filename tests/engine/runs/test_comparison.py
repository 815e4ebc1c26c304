import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from handmade import make_run, make_table
from image_classifier.engine.errors import UserError
from image_classifier.engine.runs import comparison
from image_classifier.engine.runs.comparison import Run, load_run, mcnemar, pair, wilson, write_comparison

NAMES = ("cat", "dog", "bird")


def data_of(page: Path) -> dict:
    return json.loads(page.read_text().split('<script type="application/json" id="data">')[1].split("</script>")[0])


@pytest.fixture
def runs(tmp_path: Path) -> Callable[..., list[Run]]:
    """Finished runs with these tables of the test."""

    def make(*tables: object, names: tuple[str, ...] = NAMES) -> list[Run]:
        made = []
        for number, table in enumerate(tables):
            config = {"model": {"lr": number}, "seed": 1}
            directory = make_run(tmp_path / f"run_{number}", names, test=table, config=config)  # type: ignore[arg-type]
            made.append(load_run(directory))
        return made

    return make


@pytest.mark.parametrize(("lost", "won"), [(0, 0), (0, 1), (3, 3), (10, 2), (60, 91), (900, 1000), (0, 5000)])
def test_mcnemar_is_the_exact_binomial_test(lost: int, won: int) -> None:
    expected = binomtest(lost, lost + won, 0.5).pvalue if lost + won else 1.0
    assert mcnemar(lost, won) == pytest.approx(expected, rel=1e-9, abs=1e-300)


@pytest.mark.parametrize(("successes", "total"), [(0, 1), (1, 1), (3, 10), (9332, 10_000)])
def test_intervals_are_wilsons(successes: int, total: int) -> None:
    interval = binomtest(successes, total).proportion_ci(method="wilson")
    assert wilson(successes, total) == pytest.approx((interval.low, interval.high), rel=1e-9, abs=1e-12)


def test_samples_are_paired_by_what_they_are() -> None:
    first, second = make_table(NAMES, 50), make_table(NAMES, 50)
    order = np.random.default_rng(0).permutation(50)[:40]
    second = second._replace(
        samples=[second.samples[row] for row in order],
        **{name: getattr(second, name)[order] for name in ("true", "predicted", "confidence", "loss", "second")},
    )
    second.true[3] = (second.true[3] + 1) % 3
    pairs = pair(first, second)
    assert len(pairs.first) == 39
    for one, other in zip(pairs.first, pairs.second, strict=True):
        assert first.samples[one] == second.samples[other]
        assert first.true[one] == second.true[other]
    assert [note.split(" samples")[0] for note in pairs.notes] == ["1", "Only 40"]


def test_the_page_of_two_tells_who_is_right_where(runs: Callable[..., list[Run]], tmp_path: Path) -> None:
    tables = make_table(NAMES, 400), make_table(NAMES, 400, sure=2.6)
    page = write_comparison(runs(*tables), tmp_path / "comparison.html")
    right = [table.predicted == table.true for table in tables]
    lost, won = int((right[0] & ~right[1]).sum()), int((~right[0] & right[1]).sum())
    text = page.read_text()
    probability = binomtest(lost, lost + won).pvalue
    assert f"A alone is right on {lost} and B alone on {won}. McNemar&#39;s test, exact: p = {probability:.3g};" in text
    assert re.search(r"<td>model.lr</td><td>0</td><td>1</td>", text)
    assert "<td>seed</td>" not in text
    low, high = wilson(int(right[0].sum()), 400)
    assert f"{right[0].mean():.5g} ({low:.4f} to {high:.4f})" in text
    samples = data_of(page)["samples"]["first"]
    assert samples["uniform"] == lost + won == len(samples["atlas"]["rows"])


def test_a_choice_of_many_samples_is_said(
    runs: Callable[..., list[Run]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "SAMPLES", 30)
    monkeypatch.setattr(comparison, "PICTURES", 20)
    tables = make_table(NAMES, 400), make_table(NAMES, 400, sure=1.0)
    page = write_comparison(runs(*tables), tmp_path / "comparison.html")
    right = [table.predicted == table.true for table in tables]
    differing = np.flatnonzero(right[0] != right[1])
    assert len(differing) > 30
    notes = page.read_text()
    assert f"Of the {len(differing)} samples that only one run gets right 30 chosen at random are listed" in notes
    assert "10 of the 30 listed samples that only one run gets right have no picture" in notes
    samples = data_of(page)["samples"]["first"]
    assert (samples["uniform"], len(samples["atlas"]["rows"])) == (30, 20)
    assert f"A alone is right on {int((right[0] & ~right[1]).sum())} " in notes  # of all


def test_more_than_two_stand_side_by_side(runs: Callable[..., list[Run]], tmp_path: Path) -> None:
    tables = [make_table(NAMES, 100, seed=seed) for seed in range(4)]
    data = data_of(write_comparison(runs(*tables), tmp_path / "comparison.html"))
    assert [run["name"] for run in data["runs"]] == ["run_0", "run_1", "run_2", "run_3"]
    assert data["samples"] is None


def test_what_cannot_be_compared_is_said(
    runs: Callable[..., list[Run]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = runs(make_table(NAMES, 100), make_table(NAMES, 80))
    page = tmp_path / "comparison.html"
    assert "Only 80 samples stand in both tables" in write_comparison(made, page).read_text()
    (made[1].directory / "predictions" / "test.csv").unlink()
    assert "run_1 kept no predictions" in write_comparison(made, page).read_text()
    with monkeypatch.context() as patch:
        patch.setattr(comparison, "CELLS", 17)
        text = write_comparison(made, page).read_text()
    assert "The matrices of these 2 runs have 18 cells, more than the 17 that a page holds" in text
    assert data_of(page)["runs"] == []
    (made[1].directory / "confusion_matrix" / "test.csv").unlink()
    assert "no confusion matrix of the same stage" in write_comparison(made, page).read_text()


def test_other_classes_are_said(tmp_path: Path, runs: Callable[..., list[Run]]) -> None:
    (first,) = runs(make_table(NAMES, 50))
    names = ("cat", "cow", "bird")
    other = load_run(make_run(tmp_path / "other", names, test=make_table(names, 50)))
    text = write_comparison([first, other], tmp_path / "comparison.html").read_text()
    assert "other has other classes than run_0" in text


def test_a_directory_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no config.yaml"):
        load_run(tmp_path)
    (tmp_path / "config.yaml").write_text("a: [")
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(UserError, match="expected files written by train.py"):
        load_run(tmp_path)
