"""Takes away what Lightning spends on every step for things that this training does not use.

For a network as small as the MLP at batch 128 Lightning's own work is a third of an epoch; see benchmarks/epoch.py.
"""

import os
from contextlib import nullcontext
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.profilers import PassThroughProfiler

STEP_HOOKS = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
)


class NoProfiler(PassThroughProfiler):
    """Times nothing, and makes no context of its own for each of the many actions of a step."""

    context: Any = nullcontext()

    def profile(self, action_name: str) -> Any:
        return self.context


def reduce_overhead(trainer: pl.Trainer) -> None:
    """Spare a trainer the empty hooks of its callbacks, the profiler that times nothing, and a search for GPUs."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        for hook in STEP_HOOKS:
            if getattr(type(callback), hook) is getattr(pl.Callback, hook):
                setattr(callback, hook, None)  # Lightning calls what can be called
    if type(trainer.profiler) is PassThroughProfiler:  # type: ignore[attr-defined]
        trainer.profiler = NoProfiler()  # type: ignore[attr-defined]
    if not torch.cuda.is_available():
        # Lightning sets it so that processes can be forked after a look for GPUs; each step of an optimizer then
        # loads the driver's library anew, in vain.
        os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)
