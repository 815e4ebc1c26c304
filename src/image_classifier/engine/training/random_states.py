"""Keeps the random states of Python, NumPy and torch in checkpoints: dropout and the like go on as if never stopped."""

import random
from typing import Any, cast

import numpy as np
import pytorch_lightning as pl
import torch


class RandomStates(pl.Callback):
    """Saves the states of every process, and sets them again before the first step of a resumed training.

    A run that is resumed in another number of processes draws other numbers; it could not be the same run anyway.
    """

    def __init__(self) -> None:
        self.resumed: list[dict[str, Any]] = []  # of each process

    def state_dict(self) -> dict[str, Any]:
        """Called in all processes at once, as Lightning saves checkpoints."""
        return {"processes": of_all_processes(current_states())}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.resumed = state_dict["processes"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        resumed, self.resumed = self.resumed, []
        if len(resumed) == trainer.world_size:
            restore(resumed[trainer.global_rank])


def of_all_processes(own: dict[str, Any]) -> list[dict[str, Any]]:
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [own]
    gathered: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(gathered, own)
    return gathered


def current_states() -> dict[str, Any]:
    """The random states of this process, in what `torch.load(weights_only=True)` reads."""
    version, words, python_gauss = random.getstate()
    name, keys, position, has_gauss, gauss = cast("tuple[str, np.ndarray, int, int, float]", np.random.get_state())
    states: dict[str, Any] = {
        "python": (version, torch.tensor(words), python_gauss),  # one tensor: 625 numbers would take longer to write
        "numpy": (name, torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(gauss)),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state()
    if torch.backends.mps.is_available():
        states["mps"] = torch.mps.get_rng_state()
    return states


def restore(states: dict[str, Any]) -> None:
    """Set what `current_states` returned."""
    version, words, python_gauss = states["python"]
    words = words.tolist() if isinstance(words, torch.Tensor) else words  # numbers in earlier checkpoints
    random.setstate((version, tuple(words), python_gauss))
    name, numpy_keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((name, numpy_keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
    if "mps" in states and torch.backends.mps.is_available():
        torch.mps.set_rng_state(states["mps"])
