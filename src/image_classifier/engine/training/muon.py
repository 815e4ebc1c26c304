"""Muon, for networks with kernels and small enough for a processor."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

QUINTIC = (3.4445, -4.7750, 2.0315)  # coefficients that push singular values towards 1 in few steps


class Muon(Optimizer):
    """Orthogonalised momentum for matrices and kernels, Adam for biases, scales and the last layer.

    From https://kellerjordan.github.io/posts/muon/. torch's own takes matrices only, and timm's is imported with all of
    its networks, which takes seconds.

    Args:
        params: Tensors, or groups of them with settings of their own. The last matrix in their order is taken for the
            last layer.
        lr: Rate of Adam, and of the decay of weights.
        matrix_factor: Rate of matrices and kernels, as a multiple of `lr`.
        momentum: Of their gradients, 0 to below 1, with Nesterov's correction.
        betas: Of Adam.
        eps: Of Adam.
        weight_decay: Decoupled, as in AdamW.
        steps: Of the iteration that orthogonalises.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.01,
        matrix_factor: float = 1.0,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        steps: int = 3,
    ) -> None:
        if not (min(lr, matrix_factor, weight_decay) >= 0 and 0 <= momentum < 1 and steps >= 1):
            raise ValueError(
                "expected lr, matrix_factor and weight_decay of at least 0, momentum from 0 to below 1, at least one "
                f"of steps but found {lr}, {matrix_factor}, {weight_decay}, {momentum} and {steps}"
            )
        rates = {"lr": lr, "matrix_factor": matrix_factor, "weight_decay": weight_decay}
        super().__init__(params, {**rates, "momentum": momentum, "betas": tuple(betas), "eps": eps, "steps": steps})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        matrices = [weight for group in self.param_groups for weight in group["params"] if weight.ndim > 1]
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                update = self.adam if weight.ndim < 2 or weight is matrices[-1] else self.muon
                update(weight, weight.grad, group)
        return loss

    def muon(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[weight]
        if not state:
            state["momentum"] = torch.zeros_like(weight)
        average = state["momentum"].mul_(group["momentum"]).add_(gradient)
        matrix = gradient.add(average, alpha=group["momentum"]).flatten(1)  # (O, I * K * K)
        scale = max(1, len(matrix) / matrix.shape[1]) ** 0.5  # so that rows, each an output, change alike
        weight.add_(
            orthogonalised(matrix, group["steps"]).view_as(weight), alpha=-group["lr"] * group["matrix_factor"] * scale
        )

    def adam(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[weight]
        if not state:
            state.update(step=0, mean=torch.zeros_like(weight), square=torch.zeros_like(weight))
        state["step"] += 1
        first, second = group["betas"]
        mean = state["mean"].lerp_(gradient, 1 - first)
        square = state["square"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
        rate = group["lr"] / (1 - first ** state["step"])
        weight.addcdiv_(mean, square.div(1 - second ** state["step"]).sqrt_().add_(group["eps"]), value=-rate)


def orthogonalised(matrix: Tensor, steps: int) -> Tensor:
    """Nearly U V^T of a matrix U S V^T, by Newton and Schulz's iteration.

    Args:
        matrix: (M, N) float.
        steps: Of the iteration; after five, singular values lie between 0.7 and 1.2.
    """
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.mT if tall else matrix  # the smaller product
    x = x / (x.norm() + 1e-7)
    a, b, c = QUINTIC
    for _ in range(steps):
        square = x @ x.mT
        x = torch.addmm(x, torch.addmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
