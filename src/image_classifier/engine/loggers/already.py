"""What a service has of a run that goes on: it cannot forget, so it is told only what it does not have."""

import math
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from image_classifier.engine.loggers.guard import say

ON_THE_WAY = 5.0  # seconds that a service may take to write down what it was told: a kill loses that

Values = dict[str, dict[int, Any]]  # {key: {step: value}}


class Already:
    """What has been logged before, by key and step.

    Args:
        title: Of the service, for the message.
        values: Numbers; any other value stands for a picture or a table.
    """

    def __init__(self, title: str = "", values: Values | None = None) -> None:
        self.title = title
        self.values = values or {}
        self.differs = False

    def has(self, key: str, step: int | None) -> bool:
        """Whether a picture or a table is there, of a training that has gone the same way so far."""
        return not self.differs and step in self.values.get(key, ())

    def new(self, metrics: Mapping[str, Any], step: int | None) -> dict[str, Any]:
        """Those metrics that the service does not have, or has with another value: that is told once."""
        if not self.values:
            return dict(metrics)
        return {key: value for key, value in metrics.items() if not self.same(key, value, step)}

    def same(self, key: str, value: Any, step: int | None) -> bool:
        earlier = self.values.get(key, {})
        if step not in earlier:
            return False
        is_same = isinstance(earlier[step], int | float) and (
            math.isclose(earlier[step], value, rel_tol=1e-6) or (math.isnan(earlier[step]) and math.isnan(value))
        )
        if not is_same and not self.differs and not key.startswith("final/"):
            self.differs = True
            say(
                f"{self.title} has other values of this run from step {step} to {max(earlier)}, which it cannot "
                "forget: the new ones are logged beside them"
            )
        return is_same


class Recent:
    """The numbers that a service may not have written down yet: a checkpoint holds them too."""

    def __init__(self) -> None:
        self.rows: deque[tuple[float, dict[str, float], int]] = deque()

    def add(self, metrics: Mapping[str, Any], step: int) -> None:
        numbers = {key: float(value) for key, value in metrics.items() if isinstance(value, int | float)}
        self.rows.append((time.monotonic(), numbers, step))
        self.drop_old()

    def drop_old(self) -> None:
        while self.rows and self.rows[0][0] < time.monotonic() - ON_THE_WAY:
            self.rows.popleft()

    def mark(self) -> list[Any]:
        """The rows as (metrics, step), in plain containers."""
        self.drop_old()
        return [[metrics, step] for _, metrics, step in self.rows]
