"""Which parameters an optimizer steps on, and with which factor of its rate and which weight decay."""

from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from image_classifier.engine.errors import UserError
from image_classifier.engine.training.factories import parameters_of


def parameter_groups(
    module: nn.Module, optimizer: Callable[..., Any], lr_factors: Mapping[str, float], *, decay_all: bool
) -> list[Any]:
    """The parameters that are trained, in the form that optimizers take.

    Args:
        module: Its parameters that require gradients.
        optimizer: A factory, for its `lr`.
        lr_factors: Factor of the learning rate for the parameters whose name matches a pattern; the first one counts.
        decay_all: False exempts biases and the weights of normalisation layers (all with fewer than two dimensions)
            from weight decay.

    Returns:
        The parameters themselves where all are treated alike, else one group for each treatment.

    Raises:
        UserError: A pattern matches nothing, everything is frozen, or a factor needs a rate that is not given.
    """
    named = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    if not named:
        raise UserError(
            "expected something to train but found that model.freeze matches all parameters; leave some out"
        )
    for pattern in lr_factors:
        if not any(matches(name, pattern) for name in named):
            raise UserError(
                f"expected model.lr_factors to name trained parameters but found {pattern!r}, which matches none; "
                f"their names begin with {', '.join(beginnings(named))}"
            )
    if not lr_factors and decay_all:
        return list(named.values())
    rate: Any = getattr(optimizer, "keywords", {}).get("lr")
    if lr_factors and rate is None:
        raise UserError("expected model.optimizer.lr beside model.lr_factors but found none; add it")
    groups: dict[tuple[float, bool], list[Tensor]] = {}
    for name, parameter in named.items():
        factor = next((value for pattern, value in lr_factors.items() if matches(name, pattern)), 1.0)
        groups.setdefault((factor, decay_all or parameter.ndim >= 2), []).append(parameter)
    decays = "weight_decay" in parameters_of(optimizer)
    return [
        {"params": parameters}
        | ({"lr": rate * factor} if factor != 1.0 else {})
        | ({"weight_decay": 0.0} if decays and not decayed else {})
        for (factor, decayed), parameters in groups.items()
    ]


def matches(name: str, pattern: str) -> bool:
    """Whether a pattern (with `*` and `?`) names a parameter of `Classifier.net`, or a module that it lies in."""
    name = name.removeprefix("net.")
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")


def beginnings(names: Mapping[str, Any]) -> Iterator[str]:
    """The first parts of parameter names, each once."""
    yield from dict.fromkeys(name.removeprefix("net.").partition(".")[0] for name in names)
