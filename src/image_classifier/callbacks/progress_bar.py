"""What is seen of a run while it lasts: a bar in a terminal, and everywhere one line for each finished epoch."""

import math
import sys
from collections.abc import Mapping
from time import monotonic
from typing import Any, NamedTuple

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar as LightningProgressBar
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text  # its parts have been made printable

from image_classifier.engine.terminal import printable, say
from image_classifier.engine.terminal_tables import console, name

SHORTEST_BAR, LONGEST_BAR = 8, 40  # columns


class Line(NamedTuple):
    """The running line of a terminal; what is less important is left out where the terminal is narrow."""

    description: str
    done: int
    total: float  # batches; infinite where nobody knows
    seconds: float  # since the first batch
    metrics: Mapping[str, float]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        known = math.isfinite(self.total)
        count = f"{self.done:>{len(str(int(self.total)))}}/{int(self.total)}" if known else str(self.done)
        wanted = [printable(f"{metric} {shown(value)}") for metric, value in self.metrics.items()]
        if self.done and self.seconds:
            wanted.append(f"{self.done / self.seconds:.3g} it/s")
            if known and self.done < self.total:
                wanted.insert(0, f"{duration(self.seconds / self.done * (self.total - self.done))} left")
        room = options.max_width - cell_len(self.description) - 2 - SHORTEST_BAR - len(count)
        parts = [count]
        for part in wanted:
            room -= 2 + cell_len(part)
            if room < 0:
                break
            parts.append(part)
        text = "  ".join(parts)
        width = min(options.max_width - cell_len(self.description) - cell_len(text) - 3, LONGEST_BAR)
        filled = round(width * min(self.done / self.total, 1)) if self.total else width
        stroke = "━" if options.encoding.startswith("utf") else "-"
        bar = ((stroke * filled, "cyan"), (stroke * (width - filled), "bright_black"))
        yield Text.assemble(f"{self.description} ", *bar, f" {text}", no_wrap=True, overflow="crop", end="")


class ProgressBar(LightningProgressBar):
    """Draws a line while a terminal is there to see it, and prints one when an epoch is through.

    Args:
        refresh_rate: Times a second that the running line is drawn; 0 prints nothing at all.
    """

    def __init__(self, refresh_rate: float = 4) -> None:
        super().__init__()
        self.refresh_rate = refresh_rate
        self.live: Live | None = None
        self.next_update = 0.0  # of `monotonic`, like all times here
        self.stage_start = self.training_start = 0.0
        self.epoch_start = 0.0
        self.validated = False  # in the running epoch
        self.finished: tuple[int, float] | None = None  # epoch and its seconds, until they are printed

    def enable(self) -> None:
        self.enabled = True

    def disable(self) -> None:
        self.enabled = False  # all processes but the first

    enabled = True

    # The running line.

    def start_stage(self) -> None:
        self.stage_start = monotonic()
        self.next_update = 0.0
        if self.live is None and self.enabled and self.refresh_rate and sys.stdout.isatty():
            terminal = console()
            if not terminal.is_dumb_terminal:
                self.live = Live(console=terminal, auto_refresh=False, transient=True)
                self.live.start()

    def draw(self, stage: str, done: int, total: float) -> None:
        """Draw the running line, unless that was done just now."""
        now = monotonic()
        if self.live is None or (now < self.next_update and done != total):
            return
        self.next_update = now + 1 / self.refresh_rate
        metrics = numbers(self.trainer.progress_bar_metrics) if stage == "train" else {}
        self.live.update(Line(self.describe(stage), done, total, now - self.stage_start, metrics), refresh=True)

    def describe(self, stage: str) -> str:
        if self.trainer.sanity_checking:
            return "sanity check"
        if self.trainer.state.fn != "fit":
            return stage
        return self.epoch_of(self.trainer.current_epoch + 1) + (", val" if stage == "val" else "")

    def epoch_of(self, epoch: int) -> str:
        """The epoch, the first of which is 1, of how many."""
        last = self.trainer.max_epochs
        return f"epoch {epoch}/{last}" if last is not None and last > 0 else f"epoch {epoch}"

    def stop(self) -> None:
        if self.live is not None:
            self.live.stop()
            self.live = None

    # The line of a finished epoch. Its training metrics are known when the next one starts, or at the end.

    def print_epoch(self) -> None:
        finished, self.finished = self.finished, None
        if finished is None or not self.enabled or not self.refresh_rate:
            return
        metrics = numbers(self.trainer.callback_metrics)
        names = ["train/loss", *self.trainer.progress_bar_metrics]
        stale = ("val/",) if not self.validated else ()
        fresh = [
            name for name in names if name in metrics and not name.startswith(stale) and not name.endswith("_step")
        ]
        values = [f"{name} {shown(metrics[name])}" for name in fresh]
        text = "  ".join([self.epoch_of(finished[0]), *values, f"{finished[1]:.1f} s"])
        if self.live is None:
            say(text)
        else:
            self.live.console.print(name(text), no_wrap=True, overflow="ellipsis")

    # What Lightning calls.

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.epoch_start = monotonic()  # a run that is resumed inside an epoch never starts that epoch
        self.finished = None
        self.start_stage()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.print_epoch()
        self.epoch_start = monotonic()
        self.validated = False
        self.start_stage()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.live is not None:
            self.draw("train", batch_idx + 1, trainer.num_training_batches)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.finished = trainer.current_epoch + 1, monotonic() - self.epoch_start

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.print_epoch()
        self.stop()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.training_start = self.stage_start
        self.start_stage()

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.draw("val", batch_idx + 1, trainer.num_val_batches[dataloader_idx])

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.validated = not trainer.sanity_checking
        self.stage_start = self.training_start

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.start_stage()

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.draw("test", batch_idx + 1, trainer.num_test_batches[dataloader_idx])

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.stop()


def numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}


def shown(value: float) -> str:
    """Four digits after the point, or the power of ten of what would be long."""
    return f"{value:.4f}" if abs(value) < 1e4 or not math.isfinite(value) else f"{value:.3e}"


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
