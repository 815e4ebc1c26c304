"""Making objects from configuration. Imports no torch: the command line reads the whitelist before anything else."""

from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from image_classifier.errors import UserError

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
    try:
        return instantiate(config, _execution_whitelist_=EXECUTION_WHITELIST, **arguments)
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError):  # a mistake of the user's found by what was called
            raise error.__cause__ from None
        raise
