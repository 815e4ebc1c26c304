import pytest
import torch
import torch.nn.functional as F

from image_classifier.models.focal_loss import FocalLoss


@pytest.mark.parametrize("weight", [None, torch.tensor([0.5, 1.0, 3.0])])
@pytest.mark.parametrize("ignored", [False, True])
def test_without_gamma_it_is_cross_entropy(weight: torch.Tensor | None, ignored: bool) -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(50, 3), torch.randint(3, (50,))
    if ignored:
        targets[::3] = -100
    expected = F.cross_entropy(logits, targets, weight)
    torch.testing.assert_close(FocalLoss(0.0, weight)(logits, targets), expected)


@pytest.mark.parametrize("gamma", [0.5, 2.0, 5.0])
def test_equals_the_formula(gamma: float) -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]], requires_grad=True)
    targets = torch.tensor([0, 0])
    p = logits.softmax(1)[:, 0]
    loss = FocalLoss(gamma)(logits, targets)
    torch.testing.assert_close(loss, (-((1 - p) ** gamma) * p.log()).mean())
    loss.backward()
    assert logits.grad is not None and logits.grad.isfinite().all()


@pytest.mark.parametrize("weight", [None, torch.tensor([0.5, 1.0, 3.0])])
def test_shares_of_classes_as_mixed_images_have_them(weight: torch.Tensor | None) -> None:
    torch.manual_seed(0)
    logits, shares = torch.randn(50, 3), torch.rand(50, 3).softmax(1)
    torch.testing.assert_close(FocalLoss(0.0, weight)(logits, shares), F.cross_entropy(logits, shares, weight))
    classes = torch.arange(50) % 3
    whole = F.one_hot(classes).float()
    torch.testing.assert_close(FocalLoss(2.0)(logits, whole), FocalLoss(2.0)(logits, classes))


@pytest.mark.parametrize("weight", [None, torch.tensor([0.5, 1.0, 3.0])])
def test_a_batch_of_ignored_samples_only_teaches_nothing(weight: torch.Tensor | None) -> None:
    logits = torch.randn(5, 3, requires_grad=True)
    loss = FocalLoss(2.0, weight)(logits, torch.full((5,), -100))
    loss.backward()
    assert loss.item() == 0 and logits.grad is not None and not logits.grad.any()
