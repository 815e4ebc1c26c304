"""Making objects from configuration. Imports no torch: the command line reads the whitelist before anything else."""

import os
from collections.abc import Iterable
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf

from image_classifier.engine.errors import UserError

REASON_LENGTH = 500  # characters of what a library says
REFUSALS = (TypeError, ValueError, RuntimeError, ImportError, MemoryError)  # a RuntimeError is torch's, about memory

# What a configuration may call. What comes out of a checkpoint is held to a list of its own: checkpoint.py.
EXECUTION_WHITELIST = (
    "image_classifier.*",
    "pytorch_lightning.*",
    "lightning.*",
    "torch.*",
    "torchvision.*",
    "torchmetrics.*",
    "timm.*",
    "kornia.*",
    "optuna.*",
    "hydra.*",
    "hydra_plugins.*",
    "logging.*",
)


def make(config: Any, trusted: Iterable[str] = (), **arguments: Any) -> Any:
    """Call the `_target_` of a configuration with its settings and with further arguments.

    Args:
        config: Holds `_target_`; may be nested.
        trusted: Further names that may be called: `package.module.name`, or a whole package as `package.*`.
        arguments: Further arguments.

    Raises:
        UserError: What is to be called is not allowed, does not exist, or refuses its arguments. With the variable
            HYDRA_FULL_ERROR set, the refusal comes with its traceback.
    """
    try:
        # Plain containers: an omegaconf list in the state of an optimizer or callback could not be loaded again.
        whitelist = (*EXECUTION_WHITELIST, *trusted)
        if OmegaConf.is_config(config):  # alone: `instantiate` would copy the whole configuration that it is a part of
            config = OmegaConf.create(OmegaConf.to_container(config, resolve=True), flags={"allow_objects": True})
        return instantiate(config, _convert_="all", _execution_whitelist_=whitelist, **arguments)
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError):  # a mistake of the user's found by what was called
            raise error.__cause__ from None
        message = str(error)
        if "execution whitelist" in message:
            name = message.split("'")[1]
            raise UserError(
                f"expected a class or function of the project, torch or another known package but found {name}; "
                f"if you trust it, allow it in configs/local/default.yaml: trusted: [{name}]"
            ) from None
        if isinstance(error.__cause__, ImportError) and "Error locating target" in message:
            raise UserError(
                f"expected something that can be imported but found _target_={message.split(chr(39))[1]}: "
                f"{last_reason(error.__cause__)}"
            ) from None
        if os.environ.get("HYDRA_FULL_ERROR"):
            raise
        raise refusal(config, error) from error
    except Exception as error:
        refused = isinstance(error, REFUSALS) or type(error).__name__ == "MisconfigurationException"
        if not refused or os.environ.get("HYDRA_FULL_ERROR"):
            raise
        raise refusal(config, error) from error


def refusal(config: Any, error: Exception) -> UserError:
    """What is told of an error that making an object ended with."""
    reason = " ".join(str(error).partition("full_key:")[0].split())[:REASON_LENGTH]
    if "_target_" not in config:
        return UserError(f"expected _target_ and settings to make an object of but found {config}: {reason}")
    return UserError(
        f"expected settings that {config['_target_']} takes but found that it refuses them: {reason} "
        "(HYDRA_FULL_ERROR=1 shows where)"
    )


def last_reason(error: BaseException) -> str:
    """The line of Hydra's message that says why an import failed."""
    lines = [line for line in str(error).splitlines() if "Error(" in line]
    return (lines or str(error).splitlines())[-1]
