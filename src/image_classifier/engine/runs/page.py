"""The page of a run, made from what lies in its directory: one file that needs nothing but itself."""

import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from image_classifier.engine.confusion.history import MatrixHistory
from image_classifier.engine.confusion.label_errors import suspected_label_errors
from image_classifier.engine.confusion.order import similarity_order
from image_classifier.engine.confusion.tables import read_rows, read_text
from image_classifier.engine.runs.files import write_atomically, write_json
from image_classifier.engine.runs.packing import (
    pack,
    pack_cells,
    pack_classes,
    pack_names,
    render_page,
)
from image_classifier.engine.runs.sample_table import SampleTable, read_table
from image_classifier.engine.runs.thumbnails import Atlas, load_atlas

# In the order of the page.
STAGES = {"test": "Test", "val": "Validation (best epoch)", "predict": "Pictures, by their folders"}
SCRIPTS = ("tools.js", "matrix.js", "charts.js", "samples.js", "report.js")
PICTURES = 2000  # small pictures of samples, of all stages together
SAMPLES = 100_000  # of a stage that the page holds one by one; of more, a random choice
SUSPECTS = 100  # label errors that are listed

Matrix = tuple[np.ndarray, tuple[str, ...]]  # (K, K) int64 counts and the class names


def course_path(run_dir: Path) -> Path:
    """What the page shows and no other file holds: metrics, the course of the training, where the run comes from."""
    return run_dir / "report" / "course.json"


def save_course(
    run_dir: Path,
    *,
    metrics: Mapping[str, float],
    epochs: Sequence[Mapping[str, float]],
    learning_rates: Sequence[Sequence[float]],
    facts: Mapping[str, str],
    best_epoch: int | None = None,
) -> None:
    """Keep what the page needs beside the other files of the run.

    Args:
        run_dir: Run directory.
        metrics: The final ones; a stage without any is left out of the page, whatever an earlier run left behind.
        epochs: For each epoch "epoch" (1 is the first) and any of `train/loss`, `train/acc`, `val/loss`, `val/acc`.
        learning_rates: Pairs of epochs done (with fractions) and learning rate.
        facts: Short texts such as the command.
        best_epoch: That of the best checkpoint, 1 is the first; None where it is not known.
    """
    content = {
        "metrics": {name: value for name, value in metrics.items() if math.isfinite(value)},
        "facts": dict(facts),
        "epochs": list(epochs),
        "learning_rates": list(learning_rates),
        "best_epoch": best_epoch,
    }
    write_json(course_path(run_dir), content)


def write_report(
    run_dir: Path, samples: int = SAMPLES, *, png: bool = True, tables: Mapping[str, SampleTable] | None = None
) -> Path:
    """Write `<run_dir>/report/report.html` from the files in the run directory.

    Args:
        run_dir: Directory of a run, finished or not.
        samples: How many samples of a stage the page holds one by one.
        png: Write the matrices and the curves as PNG files beside it, too.
        tables: Those of the files that need not be read, by stage.

    Returns:
        The path of the page.
    """
    course = read_course(run_dir)
    metrics = course["metrics"]
    stages = [stage for stage in STAGES if any(name.startswith(f"{stage}/") for name in metrics)]
    matrices = {stage: matrix for stage in stages if (matrix := read_matrix(run_dir, stage)) is not None}
    names = next((names for _, names in matrices.values()), ())
    shown = []
    for stage, (counts, class_names) in matrices.items():
        table = (tables or {}).get(stage) or read_table(run_dir, stage, class_names)
        shown.append(stage_data(run_dir, stage, counts, table, samples))
    history = read_history(run_dir, len(names))
    best = best_epoch(history, matrices["val"][0], course["best_epoch"]) if history and "val" in matrices else None
    data = {
        "classNames": names,
        "stages": shown,
        "epochs": [{"epoch": n, **pack_cells(*kept)} for n, kept in history.matrices.items()] if history else [],
        "everyEpoch": history.every if history else 1,
        "bestEpoch": best,
        "curves": course["epochs"],
        "rates": course["learning_rates"],
    }
    configuration = run_dir / "config.yaml"
    page = render_page(
        "report.html.jinja",
        SCRIPTS,
        "new Report(data);",
        data,
        title=run_dir.resolve().name,
        facts=course["facts"],
        metrics=dict(sorted(metrics.items(), key=lambda item: importance(item[0]))),
        has_stages=bool(shown),
        summary=read_summary(run_dir),
        configuration=configuration.read_text() if configuration.is_file() else "",
    )
    path = run_dir / "report" / "report.html"
    write_atomically(path, page)
    if png:
        write_pictures(path.parent, matrices, course)
    return path


def write_pictures(directory: Path, matrices: Mapping[str, Matrix], course: Mapping[str, Any]) -> None:
    """The matrices and the curves as PNG files, for slides."""
    import torch

    from image_classifier.engine.figures import report as draw
    from image_classifier.engine.figures.confusion_matrix import draw_confusion_matrix, to_array

    for stage in STAGES:
        path = directory / f"confusion_matrix_{stage}.png"
        path.unlink(missing_ok=True)
        if stage in matrices:
            counts, names = matrices[stage]
            picture = draw_confusion_matrix(torch.from_numpy(counts), names, "none", "counts and row percentages")
            write_atomically(path, draw.to_png(picture))
    if course["epochs"]:
        curves = draw.draw_learning_curves(course["epochs"], course["learning_rates"])
        write_atomically(directory / "learning_curves.png", draw.to_png(to_array(curves)))


def importance(name: str) -> tuple[int, int]:
    """What a metric is sorted by: those of the test first, and accuracy before loss before the rest."""
    stage, _, metric = name.partition("/")
    stages, metrics = ("test", "val", "train"), ("acc", "loss")
    return (
        stages.index(stage) if stage in stages else len(stages),
        metrics.index(metric) if metric in metrics else len(metrics),
    )


def read_course(run_dir: Path) -> dict[str, Any]:
    """What `save_course` kept; of a run without it, what `metrics.json` has."""
    course: dict[str, Any] = {"metrics": {}, "facts": {}, "epochs": [], "learning_rates": [], "best_epoch": None}
    if (metrics := run_dir / "metrics.json").is_file():
        course["metrics"] = json.loads(metrics.read_text())
    if course_path(run_dir).is_file():
        course |= json.loads(course_path(run_dir).read_text())
    return course


def read_summary(run_dir: Path) -> dict[str, Any] | None:
    """What was told of the data before the training; None where nothing was."""
    path = run_dir / "data_summary.json"
    if not path.is_file():
        return None
    content = {"lines": [], **json.loads(path.read_text())}
    parts = list(next(iter(content["classes"].values()), {}))
    return {name: content[name] for name in ("source", "lines", "warnings", "classes")} | {"parts": parts}


def read_matrix(run_dir: Path, stage: str) -> Matrix | None:
    """The counts of a stage: those that were saved, or else those of its predictions."""
    path = run_dir / "confusion_matrix" / f"{stage}.csv"
    if path.is_file():
        header, *rows = read_rows(io.StringIO(read_text(path)))
        return np.array([row[1:] for row in rows], dtype=np.int64), tuple(header[1:])
    table = read_table(run_dir, stage)
    return None if table is None else (table.counts(), table.class_names)


def read_history(run_dir: Path, num_classes: int) -> MatrixHistory | None:
    path = run_dir / "confusion_matrix" / "val_epochs.npz"
    if not path.is_file():
        return None
    history = MatrixHistory.from_bytes(path.read_bytes())
    return history if history.num_classes == num_classes else None


def best_epoch(history: MatrixHistory, counts: np.ndarray, told: int | None) -> int | None:
    """The epoch whose matrix is the one that was saved for the best checkpoint.

    Args:
        history: Matrices of the epochs.
        counts: (K, K) int64, those of the best checkpoint.
        told: The epoch that the run says was the best; None where it says nothing.

    Returns:
        None where that epoch's matrix is not kept, or where several epochs have this matrix and the run says nothing.
    """
    cells = np.flatnonzero(counts)
    equal = [
        epoch
        for epoch, (kept, values) in history.matrices.items()
        if np.array_equal(kept, cells) and np.array_equal(values, counts.flat[cells])
    ]
    if told is not None:
        return told if told in equal else None
    return equal[0] if len(equal) == 1 else None


def stage_data(
    run_dir: Path, stage: str, counts: np.ndarray, table: SampleTable | None, samples: int
) -> dict[str, Any]:
    """What the page needs of a stage."""
    notes: list[str] = []
    packed = None
    if table is None:
        notes.append("The run kept no predictions of its samples, so there are neither pictures nor thresholds.")
    else:
        atlas = load_atlas(run_dir, stage)
        packed = pack_samples(table, atlas, samples)
        notes += sample_notes(table, atlas, samples, has_settings=stage != "predict")
        if not np.array_equal(table.counts(), counts):
            notes.append("The counts and the table of predictions are of other samples: the matrix shows the counts.")
    cells = np.flatnonzero(counts)
    return {
        "key": stage,
        "title": STAGES.get(stage, stage),
        "counts": pack_cells(cells, counts.flat[cells]),
        "samples": packed,
        "similarity": similarity_order(counts),
        "notes": notes,
    }


def sample_notes(table: SampleTable, atlas: Atlas | None, samples: int, *, has_settings: bool) -> list[str]:
    """What of the samples is not in the page, with the settings of a training that change it."""
    notes = []
    pictures, limit = (" (callbacks.report.pictures)", " (callbacks.report.samples)") if has_settings else ("", "")
    labelled = table.true >= 0
    wrong = labelled & (table.true != table.predicted)
    right = labelled & ~wrong
    if atlas is None:
        notes.append("No pictures were kept.")
    elif len(atlas.rows) < labelled.sum():
        rows = np.array(atlas.rows)
        notes.append(
            f"Pictures of {wrong[rows].sum():,} of {wrong.sum():,} mistakes and of {right[rows].sum():,} of "
            f"{right.sum():,} other samples, those with the highest loss of each cell{pictures}."
        )
    if len(table.samples) > samples:
        notes.append(
            f"Of {len(table.samples):,} samples {samples:,} chosen at random are in the page, with those that have a "
            f"picture: thresholds, curves and lists are of these, the matrix is of all{limit}."
        )
    if unlabelled := int((table.true < 0).sum()):
        notes.append(f"{unlabelled:,} samples without a label are not counted.")
    return notes


def pack_samples(table: SampleTable, atlas: Atlas | None, limit: int) -> dict[str, Any]:
    """The samples column by column; above the limit a random choice, followed by those that have a picture."""
    everything = np.arange(len(table.samples))
    uniform, rows = len(everything), everything
    pictures = np.array(atlas.rows if atlas else [], dtype=np.int64)
    if len(everything) > limit:
        chosen = np.sort(np.random.default_rng(0).choice(len(everything), limit, replace=False))
        uniform, rows = limit, np.concatenate([chosen, np.setdiff1d(pictures, chosen)])
    number = len(table.class_names)
    suspects = suspected_label_errors(table.true, table.predicted, table.confidence, table.loss, number)
    place = np.full(len(everything), -1)
    place[rows] = np.arange(len(rows))
    listed = place[suspects]
    packed = {
        "uniform": uniform,
        **{name: pack_classes(getattr(table, name)[rows], number) for name in ("true", "predicted", "second")},
        "confidence": pack(table.confidence[rows]),
        "loss": pack(table.loss[rows]),
        "suspects": {"total": len(suspects), "rows": listed[listed >= 0][:SUSPECTS].tolist()},
        "atlas": None,
        **pack_names([table.samples[row] for row in rows.tolist()]),
    }
    if atlas is not None:
        packed["atlas"] = atlas.for_page() | {"rows": place[pictures].tolist()}
    return packed
