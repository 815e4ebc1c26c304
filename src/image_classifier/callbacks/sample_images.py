"""Log the first training images, so that a wrong label or a wrong channel order is seen before it is learnt."""

import numpy as np
import pytorch_lightning as pl

from image_classifier.engine.loggers.base import log_image


class SampleImages(pl.Callback):
    """Logs a 5 x 5 grid with class names as `samples/grid` and the first image as `samples/image`, once.

    Args:
        rows: Rows and columns of the grid.
    """

    def __init__(self, rows: int = 5) -> None:
        self.rows = rows

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero or trainer.global_step > 0:  # a resumed run has logged them before
            return
        from image_classifier.engine.figures.image_grid import displayable, draw_image_grid, shorten

        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        images, labels = datamodule.first_training_images(self.rows**2)
        titles = [shorten(datamodule.class_names[label], 22) for label in labels.tolist()]
        log_image(trainer, "samples/grid", draw_image_grid(images, titles, self.rows), 0)
        single = displayable(images[0])
        log_image(trainer, "samples/image", single if single.ndim == 3 else np.stack([single] * 3, -1), 0)
