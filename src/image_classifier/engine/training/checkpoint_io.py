"""How checkpoints are written: beside their place and then moved there, so that a kill leaves the one before intact."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io.checkpoint_io import CheckpointIO

from image_classifier.engine import interruption


class AtomicCheckpointIO(CheckpointIO):
    """Files of this machine, under any path. Lightning's own writes to the temporary directory first, and from there
    copies over the earlier checkpoint when that is another file system."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            with interruption.held(), staging.open("wb") as file:
                torch.save(checkpoint, file)  # not by its path: of a full disk torch would only say "unexpected pos"
                os.fsync(file.fileno())  # else a power cut could leave the new name with nothing behind it
            staging.replace(target)
        except RuntimeError as error:
            raise next((cause for cause in causes(error) if not isinstance(cause, RuntimeError)), error) from None
        finally:
            staging.unlink(missing_ok=True)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        return torch.load(path, map_location=map_location or "cpu", weights_only=True)

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


def causes(error: BaseException) -> Iterator[BaseException]:
    """What was raised first, behind torch's complaint that its file is cut off: an error of the disk, or a signal."""
    while (context := error.__context__) is not None:
        yield context
        error = context
