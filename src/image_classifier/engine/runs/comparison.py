"""What differs between runs, and the page that shows it."""

import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from PIL import Image

from image_classifier.engine.confusion.order import similarity_order
from image_classifier.engine.errors import UserError
from image_classifier.engine.runs.files import write_atomically
from image_classifier.engine.runs.packing import pack, pack_cells, pack_classes, pack_names, render_page
from image_classifier.engine.runs.page import Matrix, importance, read_matrix
from image_classifier.engine.runs.sample_table import SampleTable, read_table
from image_classifier.engine.runs.thumbnails import Atlas, load_atlas, make_atlas

SCRIPTS = ("tools.js", "matrix.js", "samples.js", "charts.js", "comparison.js")
TITLES = {"test": "Test", "val": "Validation (best epochs)"}
PICTURES = 2000  # of samples that only one of two runs gets right
SAMPLES = 50_000  # of those that the page holds one by one; of more, a random choice
CELLS = 2_000_000  # of all matrices in a page, 5 MB: of more runs the page has metrics and settings only
ABSENT = "-"


class Run(NamedTuple):
    """What a run left behind."""

    name: str
    directory: Path
    settings: dict[str, Any]  # under flat keys
    metrics: dict[str, float]


class Pairs(NamedTuple):
    """Samples that both of two runs have classified, with the same label."""

    first: np.ndarray  # (M,) int64, positions in the table of the first run
    second: np.ndarray  # (M,) int64, in that of the second
    notes: list[str]  # what was left out


def load_run(directory: Path) -> Run:
    """Read what a finished run saved.

    Raises:
        UserError: The directory holds no finished run.
    """
    for name in ("config.yaml", "metrics.json"):
        if not (directory / name).is_file():
            jobs = sorted(path.parent.name for path in directory.glob(f"*/{name}"))
            hint = f"; name its jobs, such as {directory / jobs[0]}" if jobs else ""
            raise UserError(f"expected the directory of a finished run but found no {name} in {directory}{hint}")
    try:
        config = yaml.safe_load((directory / "config.yaml").read_text())
        metrics = json.loads((directory / "metrics.json").read_text())
        run_dir = str((config.get("paths") or {}).get("run_dir") or directory)
        settings = {key: without_run_dir(value, run_dir) for key, value in flatten(config).items()}
    except Exception as error:
        raise UserError(f"expected files written by train.py or eval.py in {directory} but found: {error}") from None
    resolved = directory.resolve()
    # The jobs of a sweep are called 0, 1, 2: only with the sweep does such a name say anything.
    name = f"{resolved.parent.name}/{resolved.name}" if resolved.name.isdigit() else resolved.name
    return Run(name, directory, settings, metrics)


def flatten(config: dict[Any, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def without_run_dir(value: Any, run_dir: str) -> Any:
    """Each run lies somewhere else: that is no difference worth showing."""
    return value.replace(run_dir, "<run directory>") if isinstance(value, str) else value


def differing_settings(runs: Sequence[Run]) -> list[tuple[str, ...]]:
    """Rows of a key and its value in each run, for the settings that are not the same in all."""
    rows = []
    for key in dict.fromkeys(key for run in runs for key in run.settings):
        values = [str(run.settings[key]) if key in run.settings else ABSENT for run in runs]
        if len(set(values)) > 1:
            rows.append((key, *values))
    return rows


def common_stage(runs: Sequence[Run]) -> str | None:
    """The stage of which all runs have a matrix: the test, or else the validation."""
    for stage in TITLES:
        if all((run.directory / "confusion_matrix" / f"{stage}.csv").is_file() for run in runs):
            return stage
    return None


def write_comparison(runs: Sequence[Run], path: Path, title: str = "Comparison of runs") -> Path:
    """Write the page: metrics and settings of all runs, their matrices, and of two the samples that one gets right.

    Args:
        runs: At least one.
        path: Where to.
        title: Heading of the page.
    """
    stage = common_stage(runs)
    notes: list[str] = []
    matrices = comparable_matrices(runs, stage, notes)
    paired, samples = "", None
    if stage and matrices and len(runs) == 2:
        paired, samples = compare_samples(runs, stage, matrices[0][1], notes)
    data = {
        "classNames": matrices[0][1] if matrices else [],
        "runs": [
            {"name": run.name, **pack_cells(cells := np.flatnonzero(counts), counts.flat[cells])}
            for run, (counts, _) in zip(runs, matrices, strict=bool(matrices))
        ],
        "similarity": similarity_order(np.sum([counts for counts, _ in matrices], axis=0)) if matrices else [],
        "samples": samples,
    }
    columns = sorted({name for run in runs for name in run.metrics}, key=lambda name: (importance(name), name))
    page = render_page(
        "comparison.html.jinja",
        SCRIPTS,
        "new Comparison(data);" if matrices else "",
        data,
        title=title,
        columns=columns,
        runs=[
            {
                "name": run.name,
                "letter": "AB"[index] if len(runs) == 2 else "",
                "cells": {name: metric_cell(run, name) for name in columns},
            }
            for index, run in enumerate(runs)
        ],
        notes=notes,
        paired=paired,
        has_matrices=bool(matrices),
        stage_title=TITLES.get(stage or "", ""),
        settings=differing_settings(runs),
    )
    write_atomically(path, page)
    return path


def metric_cell(run: Run, name: str) -> str:
    """A metric as the table shows it; an accuracy with its 95 % interval."""
    value = run.metrics.get(name)
    if value is None:
        return ABSENT
    text = f"{value:.5g}" if isinstance(value, float) else str(value)
    stage, _, metric = name.partition("/")
    if metric == "acc" and stage in TITLES and (matrix := read_matrix(run.directory, stage)) is not None:
        counts, _ = matrix
        if total := int(counts.sum()):
            low, high = wilson(int(counts.trace()), total)
            text += f" ({low:.4f} to {high:.4f})"
    return text


def wilson(successes: int, total: int) -> tuple[float, float]:
    """The interval in which a share lies with 95 % confidence (Wilson 1927)."""
    z = 1.959963984540054
    share = successes / total
    scale = 1 + z * z / total
    middle = (share + z * z / (2 * total)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return max(0.0, middle - half), min(1.0, middle + half)


def comparable_matrices(runs: Sequence[Run], stage: str | None, notes: list[str]) -> list[Matrix]:
    """The matrices of all runs, or none, with a note, where they cannot stand side by side."""
    if stage is None:
        notes.append("The runs have no confusion matrix of the same stage: only metrics and settings are compared.")
        return []
    matrices = [matrix for run in runs if (matrix := read_matrix(run.directory, stage)) is not None]
    names = matrices[0][1]
    other = [run.name for run, (_, found) in zip(runs, matrices, strict=True) if found != names]
    if other:
        notes.append(
            f"{', '.join(other[:3])} {'has' if len(other) == 1 else 'have'} other classes than {runs[0].name}: "
            "only metrics and settings are compared."
        )
        return []
    cells = sum(int(np.count_nonzero(counts)) for counts, _ in matrices)
    if cells > CELLS:
        notes.append(
            f"The matrices of these {len(runs)} runs have {cells:,} cells, more than the {CELLS:,} that a page holds: "
            "only metrics and settings are compared. Compare fewer runs to see their matrices."
        )
        return []
    return matrices


def compare_samples(
    runs: Sequence[Run], stage: str, names: Sequence[str], notes: list[str]
) -> tuple[str, dict[str, Any] | None]:
    """McNemar's test in words, and the samples that exactly one of two runs classifies correctly, for the page."""
    tables = [read_table(run.directory, stage, names) for run in runs]
    first, second = tables
    if first is None or second is None:
        missing = [run.name for run, table in zip(runs, tables, strict=True) if table is None]
        notes.append(f"{' and '.join(missing)} kept no predictions: there are no pictures and no test of significance.")
        return "", None
    pairs = pair(first, second)
    notes += pairs.notes
    if not len(pairs.first):
        return "", None
    rows, others = pairs.first, pairs.second
    right = first.predicted[rows] == first.true[rows], second.predicted[others] == second.true[others]
    lost, won = int((right[0] & ~right[1]).sum()), int((~right[0] & right[1]).sum())
    probability = mcnemar(lost, won)
    verdict = "they differ beyond chance" if probability < 0.05 else "that may be chance"
    words = (
        f"Of {len(pairs.first):,} samples that both have classified, A alone is right on {lost:,} and B alone on "
        f"{won:,}. McNemar's test, exact: p = {probability:.3g}; at a level of 5 %, {verdict}. It knows nothing of how "
        "much the same settings differ from seed to seed."
    )
    shown = np.flatnonzero(right[0] != right[1])
    if (total := len(shown)) > SAMPLES:
        shown = np.sort(np.random.default_rng(0).choice(shown, SAMPLES, replace=False))
        notes.append(
            f"Of the {total:,} samples that only one run gets right {SAMPLES:,} chosen at random are listed; the test "
            "of significance and the matrices are of all."
        )
    atlas, without = disagreement_pictures(runs, stage, rows[shown], others[shown])
    if without:
        notes.append(
            f"{without:,} of the {len(shown):,} listed samples that only one run gets right have no picture: runs keep "
            f"those of the highest loss (callbacks.report.pictures), and a page holds {PICTURES:,}."
        )
    number = len(names)

    def columns(table: SampleTable, rows: np.ndarray) -> dict[str, str]:
        return {
            "predicted": pack_classes(table.predicted[rows], number),
            "confidence": pack(table.confidence[rows]),
            "loss": pack(table.loss[rows]),
        }

    rows, others = rows[shown], others[shown]
    packed = {
        "uniform": len(shown),
        "true": pack_classes(first.true[rows], number),
        "second": pack_classes(first.second[rows], number),
        **columns(first, rows),
        "suspects": None,
        "atlas": atlas,
        **pack_names([first.samples[row] for row in rows.tolist()]),
    }
    return words, {"first": packed, "second": columns(second, others)}


def pair(first: SampleTable, second: SampleTable) -> Pairs:
    """Find the samples that stand in both tables with the same label."""
    places = {name: place for place, name in enumerate(second.samples)}
    found = np.array([places.get(name, -1) for name in first.samples], dtype=np.int64)
    rows = np.flatnonzero((found >= 0) & (first.true >= 0))
    same = first.true[rows] == second.true[found[rows]]
    notes = []
    if different := int((~same).sum()):
        notes.append(f"{different:,} samples have another label in B than in A: they are left out of what is paired.")
    common = int((found >= 0).sum())
    if common < max(len(first.samples), len(second.samples)):
        notes.append(
            f"Only {common:,} samples stand in both tables of predictions, of {len(first.samples):,} in A and "
            f"{len(second.samples):,} in B."
        )
    return Pairs(rows[same], found[rows[same]], notes)


def mcnemar(lost: int, won: int) -> float:
    """How likely a split as uneven as this one, or more, is by chance: the exact test, two-sided."""
    total, fewer = lost + won, min(lost, won)
    if total == 0:
        return 1.0
    logarithms = [
        math.lgamma(total + 1) - math.lgamma(k + 1) - math.lgamma(total - k + 1) - total * math.log(2)
        for k in range(fewer + 1)
    ]
    return min(1.0, 2 * math.fsum(map(math.exp, logarithms)))


def disagreement_pictures(
    runs: Sequence[Run], stage: str, first: np.ndarray, second: np.ndarray
) -> tuple[dict[str, Any] | None, int]:
    """Pictures of the samples that only one run gets right, out of what the runs kept, and how many have none."""
    sources = [(load_atlas(run.directory, stage), rows) for run, rows in zip(runs, (first, second), strict=True)]
    tiles: dict[int, np.ndarray] = {}
    for atlas, rows in sources:
        if atlas is None or (tiles and next(iter(tiles.values())).shape != (atlas.height, atlas.width, 3)):
            continue
        places = {row: place for place, row in enumerate(atlas.rows)}
        sheet = np.asarray(Image.open(io.BytesIO(atlas.content)).convert("RGB"))
        for position, row in enumerate(rows.tolist()):
            if position not in tiles and row in places and len(tiles) < PICTURES:
                tiles[position] = tile(sheet, atlas, places[row])
    found = sorted(tiles)

    def read(rows: np.ndarray) -> np.ndarray:
        return np.stack([tiles[row] for row in rows.tolist()]).transpose(0, 3, 1, 2)

    made = make_atlas(np.array(found), read)
    return (None if made is None else made.for_page()), len(first) - len(found)


def tile(sheet: np.ndarray, atlas: Atlas, place: int) -> np.ndarray:
    line, column = divmod(place, atlas.columns)
    top, left = line * atlas.height, column * atlas.width
    return sheet[top : top + atlas.height, left : left + atlas.width]
