"""Whole runs: what is written, what is returned, what an evaluation repeats."""

import json
from collections.abc import Callable
from pathlib import Path

from image_classifier import pipeline


def test_evaluation_repeats_the_test_figures_to_the_last_digit(
    train: Callable[..., Path], compose_config: Callable, tmp_path: Path
) -> None:
    run_dir = train()
    trained = json.loads((run_dir / "metrics.json").read_text())
    cfg = compose_config(
        f"ckpt_path={run_dir}/checkpoints/best.ckpt", f"paths.run_dir={tmp_path}/eval", config_name="eval"
    )
    pipeline.evaluate(cfg)
    evaluated = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert evaluated and evaluated == {key: value for key, value in trained.items() if key.startswith("test/")}
