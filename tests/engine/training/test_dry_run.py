"""Networks and losses that do not fit are told before the training, and the others come out of it unchanged."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from image_classifier.engine.errors import UserError
from image_classifier.engine.training.dry_run import dry_run
from image_classifier.models.classifier import Classifier
from image_classifier.models.focal_loss import FocalLoss

QUIET = ("logger=none", "confusion_matrix=none", "trainer.max_epochs=1", "test=false")


class Wrapped(nn.Module):
    """A network that does something else with its logits."""

    def __init__(self, change: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.change = change
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(16, 4))

    def forward(self, images: Tensor) -> Any:
        return self.change(self.layers(images))


def classifier(net: nn.Module, **settings: Any) -> Classifier:
    model = Classifier(net, **settings)
    model.example_input_array = torch.zeros(2, 1, 4, 4)
    return model


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda logits: torch.cat((logits, logits[:, :1]), 1), r"a tensor of \(2, 5\)"),
        (lambda logits: torch.cat((logits,) * 5, 1), r"a tensor of \(2, 20\)"),
        (lambda logits: logits[:, :3], r"a tensor of \(2, 3\)"),
        (lambda logits: logits[:, 0], r"a tensor of \(2,\)"),
        (lambda logits: logits[:1], r"a tensor of \(1, 4\)"),
        (lambda logits: logits[:, :, None, None], r"a tensor of \(2, 4, 1, 1\)"),
        (lambda logits: (logits, logits), "a tuple"),
        (lambda logits: {"logits": logits}, "a dict"),
        (lambda logits: None, "a NoneType"),
        (lambda logits: logits @ torch.zeros(9, 9), r"takes? images of \(1, 4, 4\) .* RuntimeError"),
    ],
)
def test_a_network_that_returns_no_logits_of_the_classes(change: Callable[[Tensor], Any], found: str) -> None:
    with pytest.raises(UserError, match=found) as caught:
        dry_run(classifier(Wrapped(change)), 4)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("loss", "found"),
    [
        (nn.CrossEntropyLoss(reduction="none"), r"one number.* a tensor of \(2,\)"),
        (nn.BCEWithLogitsLoss(), "model.loss to take .* ValueError"),
        (nn.CrossEntropyLoss(weight=torch.ones(7)), "model.loss to take .* RuntimeError"),
        (lambda logits, classes: 0.5, "a float"),
    ],
)
def test_a_loss_that_does_not_fit(loss: Any, found: str) -> None:
    with pytest.raises(UserError, match=found) as caught:
        dry_run(classifier(Wrapped(lambda logits: logits), loss=loss), 4)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [OSError, MemoryError])
def test_files_and_memory_that_are_missing_are_no_fault_of_the_network(error: type[Exception]) -> None:
    def fail(logits: Tensor) -> None:
        raise error("missing")

    with pytest.raises(error, match="missing"):
        dry_run(classifier(Wrapped(fail)), 4)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(label_smoothing=0.1), FocalLoss(), nn.BCEWithLogitsLoss()])
def test_a_loss_is_given_what_it_will_be_given_in_training(loss: nn.Module, mixed: bool) -> None:
    model = classifier(Wrapped(lambda logits: logits), loss=loss)
    if isinstance(loss, nn.BCEWithLogitsLoss) and not mixed:
        with pytest.raises(UserError, match="classes"):
            dry_run(model, 4, mixed)
    else:
        dry_run(model, 4, mixed)


def test_nothing_is_changed_by_it() -> None:
    net = nn.Sequential(nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3), nn.Flatten(), nn.Dropout(), nn.Linear(27, 4))
    net[1].eval()  # as a frozen one
    model = classifier(net)
    before, state = {name: value.clone() for name, value in net.state_dict().items()}, torch.get_rng_state()
    modes = [module.training for module in model.modules()]
    dry_run(model, 4)
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_lazy_layers_have_their_sizes_afterwards() -> None:
    sizes = []
    for _ in range(2):
        pl.seed_everything(1, verbose=False)
        net = nn.Sequential(nn.Flatten(), nn.LazyLinear(4))
        dry_run(classifier(net), 4)
        sizes.append(net[1].weight.detach().clone())
    assert sizes[0].shape == (4, 16) and torch.equal(*sizes)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["+model.loss.reduction=none"], "one number"),
        (["model.loss._target_=torch.nn.BCEWithLogitsLoss"], r"model.loss to take .* \(B,\) classes"),
    ],
)
def test_a_run_is_refused_before_it_trains(
    train: Callable[..., Path], tmp_path: Path, overrides: list[str], told: str
) -> None:
    with pytest.raises(UserError, match=told):
        train(*QUIET, *overrides)
    assert not list((tmp_path / "run").rglob("*.ckpt"))
