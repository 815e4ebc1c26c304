from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from image_classifier.callbacks.calibration import Calibration


def expected_calibration_error(logits: Tensor, targets: Tensor, bins: int) -> float:
    """By hand, from the definition in arXiv:1706.04599."""
    exponentials = np.exp(logits.double().numpy() - logits.double().numpy().max(1, keepdims=True))
    probabilities = exponentials / exponentials.sum(1, keepdims=True)
    confidences, right = probabilities.max(1), probabilities.argmax(1) == targets.numpy()
    error = 0.0
    for index in range(bins):
        last = index == bins - 1
        inside = (confidences >= index / bins) & ((confidences < (index + 1) / bins) | last)
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - confidences[inside].mean())
    return error


@pytest.mark.parametrize("bins", [5, 15])
@pytest.mark.parametrize(("num_classes", "largest"), [(2, 4), (10, 6), (10, 250), (100, 9)])
def test_expected_calibration_error_is_that_of_its_definition(
    run_test: Callable, num_classes: int, largest: int, bins: int
) -> None:
    generator = torch.Generator().manual_seed(num_classes)
    logits = torch.randint(0, largest + 1, (500, num_classes), generator=generator)  # 250: many confidences are 1
    targets = torch.randint(0, num_classes, (500,), generator=generator)
    targets = torch.where(torch.rand(500, generator=generator) < 0.6, logits.argmax(1), targets)
    trainer = run_test(logits, targets, Calibration(bins))
    expected = expected_calibration_error(logits, targets, bins)
    assert float(trainer.callback_metrics["test/ece"]) == pytest.approx(expected, abs=1e-5)


def test_ignored_samples_do_not_count(run_test: Callable) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randint(0, 6, (300, 3), generator=generator)
    targets = torch.randint(0, 3, (300,), generator=generator)
    trainer = run_test(logits, targets, Calibration(), ignore_index=2)
    counted = targets != 2
    expected = expected_calibration_error(logits[counted], targets[counted], 15)
    assert float(trainer.callback_metrics["test/ece"]) == pytest.approx(expected, abs=1e-5)


def test_the_diagram_is_drawn(run_test: Callable, tmp_path: Path) -> None:
    run_test(torch.tensor([[3, 0], [0, 2], [0, 2]]), torch.tensor([0, 1, 0]), Calibration())
    (path,) = (tmp_path / "images" / "calibration").glob("test_step_*.png")
    assert len(np.unique(np.asarray(Image.open(path)).reshape(-1, 3), axis=0)) > 20


def test_other_stages_are_left_alone(run_test: Callable, tmp_path: Path) -> None:
    trainer = run_test(torch.tensor([[3, 0], [0, 2]]), torch.tensor([0, 0]), Calibration(stages=("val",)))
    assert "test/ece" not in trainer.callback_metrics
    assert not (tmp_path / "images").exists()
