"""TensorBoard."""

import logging
import os
import threading
import time
from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning.loggers as pl_loggers
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from image_classifier.engine.errors import UserError
from image_classifier.engine.figures.png import png_bytes
from image_classifier.engine.loggers.base import RunLogger, Table, markdown_table

logging.getLogger("tensorboard").setLevel(logging.ERROR)  # its missing-TensorFlow notice tells users nothing


def tell_no_writers_death(death: threading.ExceptHookArgs, others: Any = threading.excepthook) -> None:
    """A thread that cannot write its events any more dies with a traceback; the next call says it in one line."""
    if type(death.thread).__name__ != "_AsyncWriterThread":  # of tensorboard 2.21
        others(death)


threading.excepthook = tell_no_writers_death

NOT_HYPERPARAMETERS = ("callbacks.", "confusion_matrix.", "hydra.", "logger.", "monitor.", "paths.")


class TensorBoardLogger(RunLogger, pl_loggers.TensorBoardLogger):
    """Writes event files to `<run_dir>/tensorboard`."""

    title = "TensorBoard"

    def __init__(self, run_dir: str, **settings: Any) -> None:
        known = {*signature(pl_loggers.TensorBoardLogger).parameters, *signature(SummaryWriter).parameters}
        if unknown := sorted(settings.keys() - known):  # Lightning would find out at the first figure
            raise UserError(f"expected settings of TensorBoardLogger or SummaryWriter but found {', '.join(unknown)}")
        super().__init__(save_dir=run_dir, name="tensorboard", version="", default_hp_metric=False, **settings)
        self.facts: dict[str, Any] = {}
        self.first_step = 0  # of what this process logs
        self.curves_are_grouped = False

    def event_files(self) -> list[Path]:
        return sorted(Path(self.log_dir).glob("events.out.tfevents.*"))

    def let_a_second_pass(self) -> None:
        """TensorBoard reads the files of a run in the order of their names, which begin with their second."""
        seconds = [int(path.name.split(".")[3]) for path in self.event_files()]
        if seconds and max(seconds) == int(time.time()):
            time.sleep(1)

    def mark(self) -> Any:
        """The length of each event file."""
        self.experiment.flush()
        files = {path.name: path.stat().st_size for path in self.event_files()}
        return {"files": files, "curves_are_grouped": self.curves_are_grouped}

    def go_on(self, mark: Any, step: int) -> None:
        """Cut the event files back to their length at the checkpoint.

        A purge alone, which goes by steps, cannot tell a figure of step 10 that was drawn before the checkpoint of
        step 10 from a loss of step 10 that was logged after it. It is for a TensorBoard that has read these files.
        """
        self.first_step = step
        self.let_a_second_pass()
        if not mark:
            self._kwargs["purge_step"] = step
            return
        self._kwargs["purge_step"] = step + 1
        self.curves_are_grouped = mark["curves_are_grouped"]
        for path in self.event_files():
            if path.name not in mark["files"]:
                path.unlink()
            elif path.stat().st_size > mark["files"][path.name]:
                os.truncate(path, mark["files"][path.name])

    def start_anew(self) -> None:
        """Have the viewer forget an earlier run in this directory."""
        if self.event_files():
            self.let_a_second_pass()
            self._kwargs["purge_step"] = 0

    def log_image(self, key: str, images: list[Any], step: int | None = None, **kwargs: Any) -> None:
        for index, image in enumerate(images):
            tag = key if len(images) == 1 else f"{key}/{index}"
            if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.shape[2:] == (3,):
                self.experiment._get_file_writer().add_summary(image_summary(tag, image), step)
            else:  # grey, transparent or floating-point, from somebody else's code
                self.experiment.add_image(tag, image, step, dataformats="HWC")

    def log_markdown(self, key: str, markdown: str, step: int) -> bool:
        self.experiment.add_text(key, markdown, step)
        return True

    def log_matrix(self, key: str, table: Table, beside: Mapping[str, float], step: int) -> bool:
        caption = ", ".join(f"{name} {value:.5g}" for name, value in beside.items())
        return self.log_markdown(key, f"{caption}\n\n{markdown_table(table)}", step)

    def group_curves(self, charts: Mapping[str, Mapping[str, str]]) -> None:
        if self.curves_are_grouped:
            return
        self.curves_are_grouped = True
        layout = {
            heading: {title: ["Multiline", [keys]] for title, keys in titles.items()}
            for heading, titles in charts.items()
        }
        self.experiment.add_custom_scalars(layout)

    def log_facts(self, facts: Mapping[str, Any]) -> None:
        self.facts = dict(facts)
        self.log_rows("run", ["setting", "value"], [[key, str(value)] for key, value in facts.items()], self.first_step)

    def log_final_metrics(self, metrics: Mapping[str, float]) -> None:
        """The HParams entry: settings beside final figures."""
        settings = {
            key: value if isinstance(value, bool | int | float | str) else str(value)
            for key, value in self.facts.items()
            if not key.startswith(NOT_HYPERPARAMETERS) and not key.endswith(("_target_", "_partial_"))
        }
        final = {f"final/{key}": float(value) for key, value in metrics.items()}
        # What SummaryWriter.add_hparams does, without its second event file.
        for summary in hparams(settings, final):
            self.experiment._get_file_writer().add_summary(summary)
        self.log_metrics(final, 0)

    def finalize(self, status: str) -> None:
        """Lightning calls this after fit, and the test comes after it: `close` ends the file."""
        if self._experiment is not None:
            self._experiment.flush()

    def close(self) -> None:
        super().finalize("success")


def image_summary(tag: str, image: Any) -> Summary:
    """What `SummaryWriter.add_image` writes of an (H, W, 3) uint8 image, which takes five times as long for it."""
    height, width, channels = image.shape
    png = png_bytes(image)
    written = Summary.Image(height=height, width=width, colorspace=channels, encoded_image_string=png)
    return Summary(value=[Summary.Value(tag=tag, image=written)])
