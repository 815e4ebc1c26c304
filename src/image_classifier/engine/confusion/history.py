"""The confusion matrix of every epoch, kept small: only the cells that are not empty, and not of all epochs forever."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np

CELL_LIMIT = 500_000  # cells of all epochs together, 4 MB


class MatrixHistory:
    """Matrices by epoch. Above the limit every second one is dropped, and of those to come too, but never the last.

    Args:
        num_classes: K.
        cell_limit: Most cells of all kept matrices together.
    """

    def __init__(self, num_classes: int, cell_limit: int = CELL_LIMIT) -> None:
        self.num_classes = num_classes
        self.cell_limit = cell_limit
        self.every = 1  # only the epochs that this divides are kept, and the last
        self.matrices: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # epoch: cells (true * K + predicted), counts

    def add(self, epoch: int, true: np.ndarray, predicted: np.ndarray) -> None:
        """Keep the matrix of an epoch.

        Args:
            epoch: 1 is the first. Later ones are forgotten: a resumed run makes them anew.
            true: (N,) int64, the true classes.
            predicted: (N,) int64, the predicted ones.
        """
        cells, counts = np.unique(true.astype(np.int64) * self.num_classes + predicted, return_counts=True)
        earlier = {number: kept for number, kept in self.matrices.items() if number < epoch}
        if earlier and max(earlier) % self.every:
            del earlier[max(earlier)]  # it was there as the last one only
        self.matrices = earlier | {epoch: (cells.astype(np.int32), counts.astype(np.int32))}
        while len(self.matrices) > 2 and sum(len(cells) for cells, _ in self.matrices.values()) > self.cell_limit:
            self.every *= 2
            self.matrices = {n: kept for n, kept in self.matrices.items() if n % self.every == 0 or n == epoch}

    def to_arrays(self) -> dict[str, np.ndarray]:
        """All of it: `num_classes` and `every` (), `epochs` and `sizes` (E,), `cells` and `counts` (M,) in all."""
        kept = list(self.matrices.values())
        nothing = np.zeros(0, np.int32)
        return {
            "num_classes": np.array(self.num_classes),
            "every": np.array(self.every),
            "epochs": np.array(list(self.matrices), dtype=np.int32),
            "sizes": np.array([len(cells) for cells, _ in kept], dtype=np.int32),
            "cells": np.concatenate([cells for cells, _ in kept] or [nothing]),
            "counts": np.concatenate([counts for _, counts in kept] or [nothing]),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any], cell_limit: int = CELL_LIMIT) -> "MatrixHistory":
        """The inverse of `to_arrays`."""
        history = cls(int(arrays["num_classes"]), cell_limit)
        history.every = int(arrays["every"])
        ends = np.cumsum(np.asarray(arrays["sizes"]))[:-1]
        cells, counts = (np.split(np.asarray(arrays[name]), ends) for name in ("cells", "counts"))
        epochs = np.asarray(arrays["epochs"]).tolist()
        history.matrices = dict(zip(epochs, zip(cells, counts, strict=True), strict=True)) if epochs else {}
        return history

    def to_bytes(self) -> bytes:
        """The content of an `.npz` file."""
        content = io.BytesIO()
        np.savez_compressed(content, **self.to_arrays())  # type: ignore[arg-type]
        return content.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> "MatrixHistory":
        """The inverse of `to_bytes`."""
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return cls.from_arrays(arrays)
