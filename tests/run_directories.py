"""Compares two run directories to the last bit."""

import json
from pathlib import Path
from typing import Any

import torch


def differences(one: Path, other: Path) -> list[str]:
    """What is not the same to the last bit in two run directories."""
    found = []
    for name in ("last", "best"):
        saved, resumed = (torch.load(path / "checkpoints" / f"{name}.ckpt", weights_only=True) for path in (one, other))
        for part in ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch", "metrics"):
            found += [f"{name}: {part}"] * (not same(saved[part], resumed[part]))
    first, second = (json.loads((path / "metrics.json").read_text()) for path in (one, other))
    found += [key for key in first | second if first.get(key) != second.get(key) and key != "fit_seconds"]
    for path in sorted((one / "confusion_matrix").iterdir()):
        found += [path.name] * (path.read_bytes() != (other / "confusion_matrix" / path.name).read_bytes())
    return found


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)
