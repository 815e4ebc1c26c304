"""TensorBoard."""

import logging
from collections.abc import Mapping
from typing import Any

import pytorch_lightning.loggers as pl_loggers

from image_classifier.loggers.base import RunLogger

logging.getLogger("tensorboard").setLevel(logging.ERROR)  # its missing-TensorFlow notice tells users nothing


class TensorBoardLogger(RunLogger, pl_loggers.TensorBoardLogger):
    """Writes event files to `<run_dir>/tensorboard`."""

    def __init__(self, run_dir: str, **settings: Any) -> None:
        super().__init__(save_dir=run_dir, name="tensorboard", version="", default_hp_metric=False, **settings)
        self.facts: dict[str, Any] = {}

    def log_image(self, key: str, images: list[Any], step: int | None = None, **kwargs: Any) -> None:
        for index, image in enumerate(images):
            tag = key if len(images) == 1 else f"{key}/{index}"
            self.experiment.add_image(tag, image, step, dataformats="HWC")

    def log_markdown(self, key: str, markdown: str, step: int) -> bool:
        self.experiment.add_text(key, markdown, step)
        return True

    def log_facts(self, facts: Mapping[str, Any]) -> None:
        self.facts = dict(facts)
        rows = "\n".join(f"| {key} | `{value}` |" for key, value in facts.items())
        self.log_markdown("run", f"| setting | value |\n|---|---|\n{rows}", 0)

    def log_final_metrics(self, metrics: Mapping[str, float]) -> None:
        """The HParams entry: settings beside final figures."""
        settings = {
            key: value if isinstance(value, bool | int | float | str) else str(value)
            for key, value in self.facts.items()
        }
        self.experiment.add_hparams(settings, {f"final/{key}": value for key, value in metrics.items()}, run_name=".")
