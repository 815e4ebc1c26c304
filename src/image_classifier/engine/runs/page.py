"""One HTML page that shows a whole run and needs nothing but itself: pictures, figures, configuration."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from image_classifier.engine.confusion.matrix import ClassMetrics, class_metrics, from_csv, most_confused
from image_classifier.engine.figures import report as draw
from image_classifier.engine.figures.confusion_matrix import draw_confusion_matrix, to_array
from image_classifier.engine.runs.files import write_atomically

STAGES = {"val": "Validation (best epoch)", "test": "Test"}


class Picture(NamedTuple):
    """A picture of the report."""

    name: str  # of its file, without suffix
    caption: str
    pixels: np.ndarray  # (H, W, 3) uint8


def write_report(
    directory: Path,
    *,
    title: str,
    metrics: Mapping[str, float],
    matrices: Mapping[str, tuple[Tensor, Sequence[str]]],
    curves: Figure | None,
    gallery: Mapping[str, np.ndarray],
    calibration: Mapping[str, np.ndarray],
    facts: Mapping[str, str],
    configuration: str,
) -> Path:
    """Write `report.html` and its pictures as PNG files.

    Args:
        directory: Where to; made when missing.
        title: Heading of the page.
        metrics: The final figures.
        matrices: (K, K) counts and K class names for any of "val" and "test".
        curves: Learning curves.
        gallery: (H, W, 3) uint8 pictures of the worst mistakes, by stage.
        calibration: (H, W, 3) uint8 reliability diagrams, by stage.
        facts: Short texts such as the command.
        configuration: The resolved configuration in YAML.

    Returns:
        The path of the page.
    """
    sections: list[dict[str, Any]] = []
    if curves is not None:
        sections.append({"title": "Learning curves", "pictures": [Picture("learning_curves", "", to_array(curves))]})
    for stage in reversed(STAGES):  # the test first
        section = stage_section(stage, matrices, gallery, calibration)
        if section:
            sections.append(section)
    for section in sections:
        section["pictures"] = [embedded(picture, directory) for picture in section["pictures"]]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("template.html.jinja").render(
        title=title, metrics=metrics, facts=facts, sections=sections, configuration=configuration
    )
    write_atomically(directory / "report.html", page)
    return directory / "report.html"


def stage_section(
    stage: str,
    matrices: Mapping[str, tuple[Tensor, Sequence[str]]],
    gallery: Mapping[str, np.ndarray],
    calibration: Mapping[str, np.ndarray],
) -> dict[str, Any] | None:
    """What the page shows of a stage, or None when there is nothing."""
    section: dict[str, Any] = {"title": STAGES[stage], "pictures": []}
    if stage in matrices:
        counts, names = matrices[stage]
        section |= class_tables(counts, names)
        caption = "Rows are true classes, columns predicted ones. Colours show the share of the true class."
        picture = draw_confusion_matrix(counts, names, "none", "counts and row percentages")
        section["pictures"].append(Picture(f"confusion_matrix_{stage}", caption, picture))
    if stage in gallery:
        caption = "The mistakes with the highest loss, of the pairs of classes that are confused most often."
        section["pictures"].append(Picture(f"misclassified_{stage}", caption, gallery[stage]))
    if stage in calibration:
        caption = "Bars below the diagonal: the classifier is surer than it should be."
        section["pictures"].append(Picture(f"calibration_{stage}", caption, calibration[stage]))
    return section if section["pictures"] else None


def class_tables(counts: Tensor, names: Sequence[str]) -> dict[str, Any]:
    """The most confused pairs and the figures of each class, as the template shows them."""
    figures = class_metrics(counts)
    shown = hardest_classes(figures)
    columns = [values[shown].tolist() for values in figures]
    return {
        "confused": most_confused(counts, names, 10),
        "classes": [(names[index], *values) for index, *values in zip(shown, *columns, strict=True)],
        "number_of_classes": len(names),
    }


def hardest_classes(figures: ClassMetrics) -> list[int]:
    """All classes in their order, or when they are too many those with the lowest F1, lowest first."""
    if len(figures.f1) <= draw.CLASS_LIMIT:
        return list(range(len(figures.f1)))
    absent = (figures.support == 0).double()  # they have no figures to be low
    return (figures.f1 + 2 * absent).argsort(stable=True)[: draw.CLASS_LIMIT].tolist()


def read_matrices(run_dir: Path, stages: Sequence[str]) -> dict[str, tuple[Tensor, Sequence[str]]]:
    """The counts that a run saved, for those of the stages that it has."""
    paths = {stage: run_dir / "confusion_matrix" / f"{stage}.csv" for stage in stages}
    return {stage: from_csv(path.read_text()) for stage, path in paths.items() if path.is_file()}


def embedded(picture: Picture, directory: Path) -> dict[str, Any]:
    """Save a picture as PNG and make it part of the page."""
    content = draw.to_png(picture.pixels)
    write_atomically(directory / f"{picture.name}.png", content)
    height, width = picture.pixels.shape[:2]
    return {
        "source": f"data:image/png;base64,{base64.b64encode(content).decode()}",
        "alternative": picture.name.replace("_", " "),
        "caption": picture.caption,
        "width": width,
        "height": height,
    }
