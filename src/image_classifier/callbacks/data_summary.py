"""What is being trained on? Told before the training, and kept beside its results."""

from pathlib import Path

import pytorch_lightning as pl

from image_classifier.engine.images.summary import print_summary
from image_classifier.engine.runs.files import write_json


class DataSummaryCallback(pl.Callback):
    """Prints what the data set holds, and writes it to `<run_dir>/data_summary.json`.

    Args:
        run_dir: Run directory.
        test: Whether the images of the test are looked at too; they are read before the training then.
    """

    def __init__(self, run_dir: str, *, test: bool = True) -> None:
        self.run_dir = Path(run_dir)
        self.test = test

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        if self.test:
            datamodule.setup("test")
        if trainer.is_global_zero:
            summary = datamodule.summary()
            print_summary(summary)
            write_json(self.run_dir / "data_summary.json", summary.to_json())
