"""What a run finds out beside its metrics: callbacks put it here, and the report and the summary take it from here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from image_classifier.engine.confusion.matrix import to_csv
from image_classifier.engine.runs.files import write_atomically
from image_classifier.engine.runs.sample_table import SampleTable


@dataclass
class Results:
    """The latest findings of a run, by stage ("val" or "test")."""

    command: str = ""  # that began the run, as it would be typed again
    class_names: tuple[str, ...] = ()
    counts: dict[str, Tensor] = field(default_factory=dict)  # (K, K) int64 on the CPU; row true, column predicted
    tables: dict[str, SampleTable] = field(default_factory=dict)  # what was written of the samples, once it is final

    # What waits for the best checkpoint once the training is over: of (trainer, what the checkpoint holds).
    of_best: list[Callable[[Any, Mapping[str, Any]], Any]] = field(default_factory=list)
    at_end: list[Callable[[Any, dict[str, float]], Any]] = field(default_factory=list)  # of (trainer, final metrics)

    def save_counts(self, run_dir: str | Path, stage: str) -> None:
        """Write `confusion_matrix/<stage>.csv`, where the stage has been counted."""
        if stage in self.counts:
            path = Path(run_dir) / "confusion_matrix" / f"{stage}.csv"
            write_atomically(path, to_csv(self.counts[stage], self.class_names))

    def final_counts(self) -> Tensor | None:
        """The counts of the test, or else of the validation."""
        return self.counts.get("test", self.counts.get("val"))
