"""Starting from the weights of another training, and keeping some of them as they are."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from image_classifier.engine.checkpoint import load_file
from image_classifier.engine.errors import UserError
from image_classifier.engine.terminal import say
from image_classifier.engine.training.parameter_groups import beginnings, matches

SHOWN = 5  # names in a message


def init_from(net: nn.Module, path: str) -> None:
    """Load those weights of a checkpoint that fit, by name and shape, and say which did not.

    Args:
        net: The network.
        path: A checkpoint of a training here, or a file of weights by name: `torch.save(net.state_dict(), path)`.

    Raises:
        UserError: The file cannot be read, or nothing in it fits.
    """
    saved = read_weights(path)
    own = net.state_dict()
    fitting = {name: value for name, value in saved.items() if name in own and own[name].shape == value.shape}
    if not fitting:
        raise UserError(
            f"expected weights that fit the network at model.init_from={path} but found none: it holds "
            f"{some(describe(saved))}, the network {some(describe(own))}; choose the network that it was trained with"
        )
    net.load_state_dict(fitting, strict=False)
    left_out = [
        f"{name} {shape_of(saved.get(name))}, here {shape_of(own[name])}" for name in own if name not in fitting
    ]
    unused = [name for name in saved if name not in own]
    say(
        f"Starting from {path}: {len(fitting)} of {len(own)} tensors"
        + (f"; new: {some(left_out)}" if left_out else "")
        + (f"; not used: {some(unused)}" if unused else "")
    )


def read_weights(path: str) -> dict[str, Tensor]:
    """The tensors of a file by the network's names."""
    try:
        content = load_file(Path(path))
    except UserError as error:
        raise UserError(f"model.init_from: {error}") from None
    state = content.get("state_dict", content) if isinstance(content, Mapping) else {}
    return {
        str(name).removeprefix("net."): value
        for name, value in state.items()
        if isinstance(value, Tensor) and not str(name).startswith("loss.")
    }


def describe(state: Mapping[str, Tensor]) -> list[str]:
    return [f"{name} {shape_of(value)}" for name, value in state.items()]


def shape_of(value: Tensor | None) -> str:
    return "missing" if value is None else "x".join(map(str, value.shape)) or "scalar"


def some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def freeze(net: nn.Module, patterns: Sequence[str]) -> None:
    """Keep the parameters that match any of the patterns as they are.

    Raises:
        UserError: A pattern matches none.
    """
    names = dict(net.named_parameters())
    for pattern in patterns:
        found = [parameter for name, parameter in names.items() if matches(name, pattern)]
        if not found:
            raise UserError(
                f"expected model.freeze to name parameters of the network but found {pattern!r}, which matches none; "
                f"their names begin with {', '.join(beginnings(names))}"
            )
        for parameter in found:
            parameter.requires_grad_(False)


class FrozenStatistics(pl.Callback):
    """Keeps the running statistics of frozen normalisation layers as they are, too."""

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for layer in frozen_norms(pl_module):
            layer.eval()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.on_train_epoch_start(trainer, pl_module)  # a run that is resumed inside an epoch never starts that epoch


def frozen_norms(module: nn.Module) -> Iterator[nn.Module]:
    modules = dict(module.named_modules())
    for name, layer in modules.items():
        if not hasattr(layer, "running_mean"):
            continue
        owner = layer
        while name and next(owner.parameters(), None) is None:  # without a scale it is as frozen as what it is part of
            name = name.rpartition(".")[0]
            owner = modules[name]
        parameters = list(owner.parameters())
        if parameters and not any(weight.requires_grad for weight in parameters):
            yield layer


def class_weights(setting: Any, counts: Tensor) -> Tensor:
    """Weights of the classes in a loss.

    Args:
        setting: "balanced" for N / (K * count), as scikit-learn has it, or K numbers.
        counts: (K,) training images of each class.

    Returns:
        (K,) float32.

    Raises:
        UserError: There are not as many numbers as classes.
    """
    if setting == "balanced":
        return (counts.sum() / (len(counts) * counts.clamp(min=1))).float()
    if isinstance(setting, str) or len(setting) != len(counts):
        raise UserError(
            f"expected model.loss.weight to be balanced or {len(counts)} numbers, one for each class, "
            f"but found {setting}"
        )
    return torch.tensor(setting, dtype=torch.float32)
