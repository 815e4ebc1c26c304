"""Making objects from configuration. Imports no torch: the command line reads the whitelist before anything else."""

from typing import Any

from hydra.utils import instantiate

# What a configuration, also one that comes out of a checkpoint, may call.
EXECUTION_WHITELIST = (
    "image_classifier.*",
    "pytorch_lightning.*",
    "torch.*",
    "torchvision.*",
    "optuna.*",
    "hydra.*",
    "hydra_plugins.*",
    "logging.*",
)


def make(config: Any, **arguments: Any) -> Any:
    """Call the `_target_` of a configuration with its settings and with further arguments."""
    return instantiate(config, _execution_whitelist_=EXECUTION_WHITELIST, **arguments)
