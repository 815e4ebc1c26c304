"""A picture of each optimized figure against each swept setting."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Protocol

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from image_classifier.engine.terminal import printable

LOG_RATIO = 8  # values that span more than this are drawn on a logarithmic axis
CLOSEST_TICKS = 0.15  # values that lie apart by this share of the axis are all written at it
STYLES = {"finished": {"color": "#1f77b4", "marker": "o"}, "pruned": {"color": "#d62728", "marker": "x"}}


class Job(Protocol):
    """What is drawn of a job."""

    @property
    def state(self) -> str: ...
    @property
    def metrics(self) -> Mapping[str, float]: ...
    @property
    def settings(self) -> Mapping[str, str]: ...


def draw_sweep(jobs: Sequence[Job], settings: Sequence[str], objectives: Mapping[str, str]) -> Figure:
    """Draw one panel for each pair of figure and setting; a point is a job.

    Args:
        jobs: Those without figures are left out.
        settings: Keys of the swept overrides; at least one.
        objectives: Names of the figures; at least one.

    Returns:
        A figure with its own Agg canvas, unknown to pyplot.
    """
    size = (1.2 + 3.4 * len(settings), 0.6 + 3.0 * len(objectives))
    figure = Figure(figsize=size, dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(objectives), len(settings), squeeze=False, sharey="row")
    for row, name in zip(panels, objectives, strict=True):
        row[0].set_ylabel(printable(name), parse_math=False)
        for axes, key in zip(row, settings, strict=True):
            draw_panel(axes, [job for job in jobs if name in job.metrics and key in job.settings], key, name)
    if any(job.state == "pruned" for job in jobs):
        panels[0][0].legend(fontsize=8)
    return figure


def draw_panel(axes: Axes, jobs: Sequence[Job], key: str, name: str) -> None:
    axes.set_xlabel(printable(key), parse_math=False)
    axes.grid(alpha=0.3)
    texts = sorted({job.settings[key] for job in jobs}, key=lambda text: (is_number(text) and float(text), text))
    numbers = [float(text) for text in texts if is_number(text)]
    numeric = bool(texts) and len(numbers) == len(texts)
    for state, style in STYLES.items():
        chosen = [job for job in jobs if job.state == state]
        places = [float(job.settings[key]) if numeric else texts.index(job.settings[key]) for job in chosen]
        if chosen:
            axes.scatter(places, [job.metrics[name] for job in chosen], alpha=0.75, label=state, **style)  # type: ignore[arg-type]
    if not numeric:
        shown = [printable(text) for text in texts]  # matplotlib has no picture of a control, and says so
        axes.set_xticks(range(len(texts)), shown, rotation=30 if sum(map(len, shown)) > 24 else 0, parse_math=False)
        axes.set_xlim(-0.5, max(len(texts), 1) - 0.5)
        return
    logarithmic = numbers[0] > 0 and numbers[-1] / numbers[0] > LOG_RATIO
    if logarithmic:
        axes.set_xscale("log")
    places = [math.log(number) for number in numbers] if logarithmic else numbers
    gaps = [right - left for left, right in pairwise(places)]
    if all(gap > CLOSEST_TICKS * (places[-1] - places[0]) for gap in gaps):
        axes.set_xticks(numbers, texts)
        axes.set_xticks([], minor=True)


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
