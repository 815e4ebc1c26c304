"""Outputs that are not finite never count as a class: validation, test and prediction end and say why."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from image_classifier import pipeline
from image_classifier.engine.errors import UserError
from image_classifier.engine.training.metrics import EpochMetrics
from image_classifier.engine.training.stages import Outputs
from image_classifier.models.classifier import Classifier
from tiny import TINY

PLAIN = ("logger=none", "confusion_matrix=none", "trainer.max_epochs=1")


class Spoilt(nn.Module):
    """Gives the second of every three images an output of its own."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.layer, self.value = nn.Linear(4, 3), value

    def forward(self, images: Tensor) -> Tensor:
        logits = self.layer(images.flatten(1)).clone()
        logits[1::3, 2] = self.value
        return logits


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("step", ["validation_step", "test_step", "predict_step"])
def test_every_stage_names_batch_and_number(value: float, step: str) -> None:
    model = Classifier(Spoilt(value)).eval()
    batch = (torch.zeros(7, 1, 2, 2), torch.zeros(7, dtype=torch.int64))
    with pytest.raises(UserError, match=r"for 2 of 7 images in batch 5 \(from 0\) .*overflowed .*precision=32-true"):
        output = getattr(model, step)(batch, 5)
        EpochMetrics().collect("val", None, model, Outputs.of(output, batch, 5))  # type: ignore[arg-type]


def test_the_cause_is_looked_for() -> None:
    model = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(4, 3))).eval()
    images = torch.zeros(2, 1, 2, 2)
    images[1] = float("nan")
    with pytest.raises(UserError, match="1 of 2 images .* the images themselves are not finite"):
        model.predict_step((images, torch.zeros(2)), 0)
    with torch.no_grad():
        model.net[1].weight[0, 0] = float("inf")  # type: ignore[index]
    with pytest.raises(UserError, match=r"the weights of 1\.weight are not finite, the training diverged"):
        model.predict_step((torch.ones(2, 1, 2, 2), torch.zeros(2)), 0)


@pytest.mark.parametrize("way", ["eval", "predict", "train_false", "resume"])
def test_a_spoilt_checkpoint_ends_every_command(
    train: Callable[..., Path], compose_config: Callable[..., Any], tmp_path: Path, way: str
) -> None:
    checkpoint = torch.load(train(*PLAIN) / "checkpoints" / "last.ckpt", weights_only=True)
    checkpoint["state_dict"]["net.1.bias"][0] = float("nan")
    torch.save(checkpoint, tmp_path / "bad.ckpt")
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    given = [f"ckpt_path={tmp_path}/bad.ckpt", f"paths.run_dir={tmp_path}/second"]
    with pytest.raises(UserError, match="expected .*finite"):
        if way == "eval":
            pipeline.evaluate(compose_config(*given, config_name="eval"))
        elif way == "predict":
            files = [f"input={tmp_path}/a.png", f"output={tmp_path}/p.csv"]
            pipeline.predict(compose_config(*given, *files, config_name="predict"))
        else:
            more = ["train=false"] if way == "train_false" else ["trainer.max_epochs=2"]
            pipeline.train(compose_config(*TINY, "logger=none", "confusion_matrix=none", *given, *more))
    assert not (tmp_path / "p.csv").exists() and not (tmp_path / "second" / "confusion_matrix" / "test.csv").exists()


def test_a_training_that_diverges_is_told(train: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match=r"expected .*finite .*(lower model.optimizer.lr)"):
        train(*PLAIN, "model.optimizer._target_=torch.optim.SGD", "model.optimizer.lr=1e30", "model.scheduler=null")
