"""Whether a network and a loss fit the data and one another: told before the training."""

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from image_classifier.engine.errors import UserError


def dry_run(model: pl.LightningModule, num_classes: int, mixed: bool = False) -> None:
    """Run two blank images through a network and its loss, as in evaluation. Lazy layers get their sizes by it.

    Args:
        model: With an `example_input_array` of 2 images, a `forward` that returns logits, and a `loss`.
        num_classes: K.
        mixed: Whether the loss is given (B, K) shares of classes in place of (B,) classes.

    Raises:
        UserError: The network takes no such images or returns something else than (2, K) logits, or the loss takes
            something else or is no single number.
    """
    images: Any = model.example_input_array
    unchanged = torch.random.fork_rng(devices=())
    with in_evaluation(model), torch.no_grad(), unchanged, torch.compiler.set_stance("force_eager"):
        logits = attempt("net", f"images of {tuple(images.shape[1:])}", model, images)
        check_logits(logits, len(images), num_classes)
        check_loss(model.loss, logits, mixed)


@contextmanager
def in_evaluation(model: pl.LightningModule) -> Iterator[None]:
    """Have a model in evaluation for a while; then each of its layers is as it was, for some may be frozen."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training


def check_logits(logits: Any, count: int, num_classes: int) -> None:
    """Raise UserError unless something is the (count, K) logits of so many images."""
    if isinstance(logits, Tensor) and logits.shape == (count, num_classes):
        return
    found = f"a tensor of {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
    raise UserError(
        f"expected logits from the network, a tensor of {(count, num_classes)} for {count} images of {num_classes} "
        f"classes, but found {found}"
    )


def check_loss(loss: Any, logits: Tensor, mixed: bool) -> None:
    """Raise UserError unless a loss takes (B, K) logits and their targets and returns one number."""
    number = logits.shape[1]
    targets = torch.arange(len(logits)) % number
    kind = "(B,) classes"
    if mixed:
        targets, kind = torch.nn.functional.one_hot(targets, number).float(), f"(B, {number}) shares of mixed classes"
    own = copy.deepcopy(loss)  # it may keep a state
    value = attempt("loss", f"(B, {number}) logits and {kind}", own, logits, targets)
    if not isinstance(value, Tensor) or value.numel() != 1:
        found = f"a tensor of {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise UserError(f"expected model.loss to be one number, the mean of the batch, but found {found}")


def attempt(part: str, taken: str, function: Any, *arguments: Any) -> Any:
    """Call a part of the model; its errors in one line, unless the variable HYDRA_FULL_ERROR asks for the traceback."""
    try:
        return function(*arguments)
    except (UserError, OSError, MemoryError):  # told elsewhere, in words of their own
        raise
    except Exception as error:
        if os.environ.get("HYDRA_FULL_ERROR"):
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(
            f"expected model.{part} to take {taken} but found that it does not: {reason} "
            "(HYDRA_FULL_ERROR=1 shows where)"
        ) from error
