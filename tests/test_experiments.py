"""Every recipe takes its steps on the real images, on a CPU."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from image_classifier import pipeline
from image_classifier.engine.project import CONFIG_DIR

RECIPES = sorted(path.stem for path in (Path(CONFIG_DIR) / "experiment").glob("*.yaml"))
TWO_STEPS = (
    *("trainer.accelerator=cpu", "trainer.max_epochs=1", "data.batch_size=4", "data.eval_batch_size=4"),
    *("trainer.limit_train_batches=2", "trainer.limit_val_batches=1", "trainer.limit_test_batches=1"),
    *("callbacks.progress_bar=null", "callbacks.report=null", "callbacks.sample_images=null", "logger=none"),
)


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_recipe_trains_and_tests(compose_config: Callable[..., Any], name: str) -> None:
    cfg = compose_config(f"experiment={name}", *TWO_STEPS)
    run_dir = Path(cfg.paths.run_dir)
    pipeline.train(cfg)
    checkpoint = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 2
    metrics = json.loads((run_dir / "metrics.json").read_text())
    assert metrics["epochs"] == 1 and 0 <= metrics["test/acc"] <= 1
    assert 1 < metrics["train/loss"] < 10  # chance is log(10)
