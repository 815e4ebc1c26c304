"""What `train.py`, `eval.py`, `predict.py` and `export.py` start.

`pipeline` is imported inside: it brings torch and Lightning, and help and mistakes answer before that.
"""

from typing import Any

from omegaconf import DictConfig

from image_classifier.engine.launch.commands import command


def load() -> None:
    from image_classifier import pipeline  # noqa: F401


@command("train", load)
def train(cfg: DictConfig) -> Any:
    from image_classifier import pipeline

    return pipeline.train(cfg)


@command("eval", load)
def evaluate(cfg: DictConfig) -> float:
    from image_classifier import pipeline

    return pipeline.evaluate(cfg)


@command("predict", load, one_process=True)
def predict(cfg: DictConfig) -> None:
    from image_classifier import pipeline

    pipeline.predict(cfg)


@command("export", load)
def export(cfg: DictConfig) -> None:
    from image_classifier import pipeline

    pipeline.export(cfg)
