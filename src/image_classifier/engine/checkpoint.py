"""Checkpoints: reading them without running what they say, and rebuilding model and data from their recipe.

A checkpoint may come from anywhere. It is read with `weights_only=True`, and its recipe, which names classes to call,
is held to an exact list: torch's optimizers, schedulers and losses, the metrics of torchmetrics, torchvision's
transforms, what the files in `configs/` name for model and data, and what `trusted` names exactly. All else is refused
before anything is called. Strings stay strings: nothing in a recipe is resolved or looked up.
"""

import inspect
from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torchmetrics
import yaml
from torch import nn
from torch.nn.modules import loss as losses
from torch.optim import Optimizer, lr_scheduler
from torchvision.transforms import v2

from image_classifier.engine.errors import UserError
from image_classifier.engine.former_names import renamed
from image_classifier.engine.project import CONFIG_DIR, PROJECT_ROOT

Recipe = dict[str, Any]

TRAINING_ONLY = ("optimizer", "scheduler", "loss", "init_from", "freeze")  # of the model's settings: never remade

WRITTEN = ("cache",)  # of the data's settings: a directory in which files are made


def read_checkpoint(ckpt_path: str, trusted: Collection[str] = ()) -> dict[str, Any]:
    """The content of a checkpoint that `train` wrote.

    Args:
        ckpt_path: Its file.
        trusted: Further names that its recipe may hold; only exact ones count, no `package.*`.

    Raises:
        UserError: There is no such file, it is damaged or none of ours, or its recipe names what it must not.
    """
    path = Path(ckpt_path)
    checkpoint = load_file(path)
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("recipe"), dict):
        raise UserError(f"expected a checkpoint written by train.py but found {path}, which holds no recipe")
    checkpoint["recipe"] = renamed(checkpoint["recipe"])
    check_targets(checkpoint["recipe"], allowed_targets() | frozenset(trusted), path)
    return checkpoint


def load_file(path: Path) -> Any:
    """What a file holds: tensors and plain containers only.

    Raises:
        UserError: There is no such file, or it cannot be read as these.
    """
    if not path.is_file():
        raise UserError(f"expected a checkpoint file but found none at {path}; see outputs/train/*/checkpoints/")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).split("\n")[0]
        raise UserError(f"expected a checkpoint written by train.py but found {path}: {reason}") from None


def check_targets(recipe: Recipe, allowed: Collection[str], path: Path) -> None:
    """Refuse a recipe that names anything outside the list, wherever it stands."""
    for target in targets_in(recipe):
        if not isinstance(target, str) or target not in allowed:
            raise UserError(
                f"expected {path} to name known networks, data sets and optimizers but found {target!r}, which was "
                f"not called; if you trust the file, allow it in configs/local/default.yaml: trusted: [{target}]"
            )


def targets_in(node: Any) -> Iterator[Any]:
    """Every `_target_` in nested containers."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield node["_target_"]
        node = list(node.values())
    if isinstance(node, list | tuple):
        for value in node:
            yield from targets_in(value)


@lru_cache(maxsize=1)
def allowed_targets() -> frozenset[str]:
    """What a recipe may name: classes of torch and torchvision, and what `configs/` has for model and data."""
    names = {
        f"{module.__name__}.{name}"
        for module, base in (
            (torch.optim, Optimizer),
            (lr_scheduler, lr_scheduler.LRScheduler),
            (nn, losses._Loss),
            (losses, losses._Loss),
            (torchmetrics.classification, torchmetrics.Metric),
            (v2, v2.Transform),
        )
        for name, value in vars(module).items()
        if inspect.isclass(value) and issubclass(value, base) and value is not base
    }
    for group in ("model", "data", "experiment", "local"):
        for file in Path(CONFIG_DIR, group).rglob("*.yaml"):
            content = yaml.safe_load(file.read_text()) or {}
            whole = group in ("model", "data")
            parts = [content] if whole else [content.get(part) for part in ("model", "data", "metrics")]
            names |= {target for target in targets_in(parts) if isinstance(target, str)}
    return frozenset(names)


def build(node: Any, **arguments: Any) -> Any:
    """Make what a recipe says, after `check_targets`. Further arguments go to the outermost call."""
    if isinstance(node, list | tuple):
        return [build(item) for item in node]
    if not isinstance(node, dict):
        return node
    settings = {key: build(value) for key, value in node.items() if key != "_target_"} | arguments
    if "_target_" not in node:
        return settings
    return locate(node["_target_"])(**settings)


def locate(name: str) -> Any:
    """The class or function of a full name."""
    module, _, attribute = name.rpartition(".")
    return getattr(import_module(module), attribute)


def accepted(function: Any, offered: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the offered arguments that a function has parameters for."""
    parameters = inspect.signature(function).parameters
    return {name: value for name, value in offered.items() if name in parameters}


def network_arguments(network: Any, recipe: Recipe) -> dict[str, Any]:
    """What a network is told of the data, as far as it asks: shape, classes, normalisation.

    Args:
        network: The class or function that makes it.
        recipe: `image_shape`, `class_names`, `mean` and `std`.
    """
    facts = {
        "image_shape": tuple(recipe["image_shape"]),
        "num_classes": len(recipe["class_names"]),
        "mean": tuple(recipe["mean"]),
        "std": tuple(recipe["std"]),
    }
    needed = {name: facts[name] for name in ("image_shape", "num_classes")}
    return accepted(network, facts) | needed


def load_model(checkpoint: dict[str, Any]) -> pl.LightningModule:
    """Rebuild the model from a checkpoint's recipe and weights; neither data nor optimizer is made.

    Raises:
        UserError: The recipe does not fit the code.
    """
    recipe = checkpoint["recipe"]
    settings = {key: value for key, value in recipe["model"].items() if key not in ("net", *TRAINING_ONLY)}
    try:
        net = recipe["model"]["net"]
        network = locate(net["_target_"])
        weights_follow = accepted(network, {"load_weights": False})
        model = build(settings, net=build({**net, **weights_follow}, **network_arguments(network, recipe)))
        if not isinstance(model, pl.LightningModule):
            raise TypeError(f"{type(model).__name__} is no model")
        weights = {name: value for name, value in checkpoint["state_dict"].items() if not name.startswith("loss.")}
        model.load_state_dict(weights)
    except (KeyError, TypeError, ValueError, AttributeError, ImportError, RuntimeError) as error:
        raise misfit("model", error) from error
    return model


def load_datamodule(checkpoint: dict[str, Any]) -> Any:
    """Rebuild the data module from a checkpoint's recipe; nothing is read yet."""
    data = with_measured(checkpoint["recipe"])
    if data.get("root") is not None:
        data["root"] = str(PROJECT_ROOT / data["root"])  # an absolute root stays itself
    try:
        datamodule = build(data)
        if not isinstance(datamodule, pl.LightningDataModule):
            raise TypeError(f"{type(datamodule).__name__} is no data set")
        return datamodule
    except (KeyError, TypeError, ValueError, AttributeError, ImportError) as error:
        raise misfit("data", error) from error


def load_run(
    ckpt_path: str, data_overrides: Mapping[Any, Any] | None = None, trusted: Collection[str] = ()
) -> tuple[pl.LightningModule, Any]:
    """Rebuild model and data from a checkpoint.

    Args:
        ckpt_path: A checkpoint that `train` wrote.
        data_overrides: Settings of the data to use instead of the saved ones; null leaves one as it was.
        trusted: Further names that the checkpoint may hold.

    Raises:
        UserError: The file cannot be read, its recipe does not fit the code, or the data has other classes.
    """
    checkpoint = read_checkpoint(ckpt_path, trusted)
    return load_model(checkpoint), load_data(checkpoint, ckpt_path, data_overrides)


def load_data(checkpoint: dict[str, Any], ckpt_path: str, overrides: Mapping[Any, Any] | None = None) -> Any:
    """Rebuild the data of a checkpoint, which may lie elsewhere now.

    The checkpoint may come from anywhere: it cannot say where decoded pictures are written, only an override can.
    """
    recipe = checkpoint["recipe"]
    changes = {key: value for key, value in (overrides or {}).items() if value is not None}
    root = changes.pop("root", None)
    recipe["data"] = {key: value for key, value in recipe["data"].items() if key not in WRITTEN} | changes
    datamodule = load_datamodule(checkpoint)
    state = checkpoint.get(type(datamodule).__qualname__, {})
    tells = "contents" in state or "pictures" in state
    if root is None and tells:  # leaves out what was trained on, even if files were added since then
        root = str(datamodule.root)
    if root is not None:
        datamodule.relocate(root, recipe["class_names"], state)
    datamodule.prepare_data()
    if list(datamodule.class_names) != recipe["class_names"]:
        raise UserError(
            f"expected the classes that {ckpt_path} was trained on ({', '.join(recipe['class_names'])}) "
            f"but found {', '.join(datamodule.class_names)}; name the right data: data.root=DIR"
        )
    return datamodule


def with_measured(recipe: Recipe) -> dict[str, Any]:
    """The settings of the data, with what training found where they say "auto"."""
    channels = recipe.get("image_shape", [None])[0]
    found = {"channels": channels, "mean": recipe.get("mean"), "std": recipe.get("std")}
    return {key: found[key] if key in found and value == "auto" else value for key, value in recipe["data"].items()}


def misfit(what: str, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:300]
    return UserError(
        f"expected a checkpoint whose {what} this version of the project can rebuild but found "
        f"{type(error).__name__}: {reason}; use the code that it was trained with"
    )
