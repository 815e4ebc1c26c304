"""Muon beside torch's own, torch's Adam and a singular value decomposition."""

import copy

import pytest
import torch
from torch import nn

from image_classifier.engine.training.muon import Muon, orthogonalised


def small_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, bias=False), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(96, 5), nn.ReLU(), nn.Linear(5, 4)
    )


def train(net: nn.Module, *optimizers: torch.optim.Optimizer) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    for _ in range(4):
        images = torch.randn(8, 2, 6, 6, generator=generator)
        loss = nn.functional.cross_entropy(net(images), torch.randint(4, (8,), generator=generator))
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
    return net


def matrices_of(net: nn.Module) -> list[nn.Parameter]:
    """All but the last."""
    return [weight for weight in net.parameters() if weight.ndim > 1][:-1]


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_all_but_matrices_is_adams(decay: float) -> None:
    ours, theirs = small_net(), small_net()
    for net in (ours, theirs):
        for weight in matrices_of(net):
            weight.requires_grad_(False)
    train(ours, Muon(ours.parameters(), 0.01, weight_decay=decay))
    train(theirs, torch.optim.AdamW(theirs.parameters(), 0.01, weight_decay=decay))
    for mine, reference in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, reference)


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (7, 7)])
def test_matrices_are_torchs(shape: tuple[int, int]) -> None:
    """It averages gradients where we sum them, which orthogonalising does away with, and multiplies in bfloat16."""
    torch.manual_seed(0)
    start, last = torch.randn(shape), torch.zeros(1, 1)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    mine = Muon([ours, nn.Parameter(last)], 0.01, matrix_factor=2, weight_decay=0.2, steps=5)
    reference = torch.optim.Muon([theirs], 0.02, weight_decay=0.1, adjust_lr_fn="original")
    for _ in range(5):
        ours.grad = torch.randn(shape)
        theirs.grad = ours.grad.clone()
        mine.step()
        reference.step()
    assert (ours - start).norm() > 0.1
    assert (ours - theirs).norm() < 0.02 * (theirs - start).norm()


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (7, 7)])
def test_singular_values_become_about_one(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    found = orthogonalised(matrix, steps=5)
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.6 and values.max() < 1.3
    assert torch.cosine_similarity(found.flatten(), (left @ right).flatten(), dim=0) > 0.97


def test_a_kernel_is_updated_as_the_matrix_of_its_outputs() -> None:
    torch.manual_seed(0)
    kernel, gradient = torch.randn(6, 2, 3, 3), torch.randn(6, 2, 3, 3)
    flat, whole = nn.Parameter(kernel.flatten(1).clone()), nn.Parameter(kernel.clone())
    for weight in (flat, whole):
        weight.grad = gradient.view_as(weight).clone()
        Muon([weight, nn.Parameter(torch.zeros(1, 1))]).step()
    assert torch.equal(whole.flatten(1), flat) and not torch.equal(flat, kernel.flatten(1))


def test_it_goes_on_from_its_state() -> None:
    straight, stopped = small_net(), small_net()
    optimizer = Muon(straight.parameters())
    train(straight, optimizer)
    first = Muon(stopped.parameters())
    train(stopped, first)
    second = Muon(stopped.parameters())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    train(straight, optimizer)
    train(stopped, second)
    for mine, reference in zip(stopped.parameters(), straight.parameters(), strict=True):
        assert torch.equal(mine, reference)


@pytest.mark.parametrize("wrong", [{"lr": -1}, {"momentum": 1.0}, {"weight_decay": -0.1}, {"steps": 0}])
def test_what_cannot_be_is_told(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected lr, matrix_factor and weight_decay of at least 0"):
        Muon(small_net().parameters(), **wrong)  # type: ignore[arg-type]
