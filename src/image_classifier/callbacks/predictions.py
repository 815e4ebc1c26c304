"""What the classifier said of each sample, and how the matrix of the validation came about epoch by epoch."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import SequentialSampler

from image_classifier.callbacks.confusion_matrix import is_best_so_far
from image_classifier.engine.confusion.history import MatrixHistory
from image_classifier.engine.errors import UserError
from image_classifier.engine.images.batches import EpochBatches
from image_classifier.engine.runs.files import write_atomically
from image_classifier.engine.runs.results import Results
from image_classifier.engine.runs.sample_table import FORMATS, Format, SampleTable, require_pyarrow, write_table
from image_classifier.engine.training.stages import Outputs, StageCallback, ignored_label

HISTORY_FILE = "confusion_matrix/val_epochs.npz"

Columns = dict[str, Tensor]  # sample, true, predicted, second: (N,) integers; confidence, loss: (N,) float32


class Predictions(StageCallback):
    """Writes `<run_dir>/predictions/<stage>.csv`: for validation that of the best epoch, and that of the test.

    Also keeps the validation matrix of every epoch, in `<run_dir>/confusion_matrix/val_epochs.npz`. Exact over any
    number of processes. Costs about 20 bytes a sample of memory, and in each checkpoint: 20 MB for a million.

    Args:
        run_dir: Run directory.
        format: "csv", or "parquet", for which the package pyarrow must be installed.
        stages: Any of "val" and "test".
        results: Tells which checkpoint is the best one, and takes the final tables.
    """

    def __init__(
        self,
        run_dir: str,
        *,
        format: Format = "csv",
        stages: Sequence[str] = ("val", "test"),
        results: Results | None = None,
    ) -> None:
        super().__init__(stages)
        if format not in FORMATS:
            raise UserError(
                f"expected callbacks.predictions.format to be csv or parquet but found {format}; "
                "for example callbacks.predictions.format=csv"
            )
        if format == "parquet":
            require_pyarrow()
        self.run_dir = Path(run_dir)
        self.format: Format = format
        self.results = results or Results()
        self.results.of_best.append(self.take_best)
        self.batches: list[Columns] = []  # of the running epoch, on the device
        self.order: Iterator[Any] | None = None  # the samples of each batch; None where the loader does not tell
        self.served = 0  # samples of this process so far
        self.in_order = True  # whether the last validation was of a loader that tells
        self.latest: Columns | None = None  # the last validation, on the CPU
        self.written: Columns | None = None  # the validation in the file, where this process wrote it
        self.history: MatrixHistory | None = None

    def start(self, stage: str, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.batches, self.served = [], 0
        self.order = served_order(trainer.val_dataloaders if stage == "val" else trainer.test_dataloaders)

    def collect(self, stage: str, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Outputs) -> None:
        """Add a batch, without waiting for the device."""
        targets = outputs.targets
        columns = describe(outputs.logits, outputs.predicted, targets, ignored_label(pl_module))
        if self.order is not None:
            samples = torch.as_tensor(next(self.order))
            assert len(samples) == len(targets), "the loader serves other batches than its batch sampler says"
        else:  # numbered as they come, the processes in turn
            samples = (torch.arange(len(targets)) + self.served) * trainer.world_size + trainer.global_rank
            self.served += len(targets)
        self.batches.append(columns | {"sample": samples.int()})

    def finish(self, stage: str, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        columns, in_order = self.everything(trainer), self.order is not None
        if stage == "test":
            if trainer.is_global_zero:
                table = self.results.tables["test"] = table_of("test", trainer, columns, in_order)
                write_table(self.run_dir, "test", table, self.format)
            return
        self.latest, self.in_order = columns, in_order
        if trainer.state.fn == "fit":
            self.remember_matrix(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.latest is None or trainer.sanity_checking or not trainer.is_global_zero:
            return
        if is_best_so_far(trainer):
            write_table(self.run_dir, "val", table_of("val", trainer, self.latest, self.in_order), self.format)
            self.written = self.latest
        if self.history is not None and trainer.state.fn == "fit":
            write_atomically(self.run_dir / HISTORY_FILE, self.history.to_bytes())

    def everything(self, trainer: pl.Trainer) -> Columns:
        """The samples of all batches and processes in the order of the data, on the CPU."""
        batches, self.batches = self.batches, []
        own = {name: torch.cat([batch[name] for batch in batches]).cpu() for name in batches[0]} if batches else {}
        parts: list[Any] = [own]
        if trainer.world_size > 1:
            parts = [None] * trainer.world_size
            torch.distributed.all_gather_object(parts, own)
        parts = [part for part in parts if part]
        together = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        order = together["sample"].argsort(stable=True)
        return {name: values[order] for name, values in together.items()}

    def remember_matrix(self, trainer: pl.Trainer) -> None:
        assert self.latest is not None
        if self.history is None:
            self.history = MatrixHistory(len(trainer.datamodule.class_names))  # type: ignore[attr-defined]
        true, predicted = self.latest["true"].numpy(), self.latest["predicted"].numpy()
        self.history.add(trainer.current_epoch + 1, true[true >= 0], predicted[true >= 0])

    def state_dict(self) -> dict[str, Any]:
        """The last validation, so that each checkpoint has its own, and the matrices of the epochs so far."""
        history = None
        if self.history is not None:
            history = {name: torch.from_numpy(array) for name, array in self.history.to_arrays().items()}
        return {"val": self.latest, "in_order": self.in_order, "history": history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self.history is None and state_dict["history"] is not None:
            arrays = {name: tensor.numpy() for name, tensor in state_dict["history"].items()}
            self.history = MatrixHistory.from_arrays(arrays)

    def take_best(self, trainer: pl.Trainer, checkpoint: Mapping[str, Any]) -> None:
        """Write those of the best checkpoint: it may be from before a resume, or validated at the very end."""
        state = checkpoint["callbacks"].get(self.state_key)
        if state is not None and state["val"] is not None and trainer.is_global_zero:
            columns = state["val"]
            table = self.results.tables["val"] = table_of("val", trainer, columns, state["in_order"])
            if not same(self.written, columns):
                write_table(self.run_dir, "val", table, self.format)


def table_of(stage: str, trainer: pl.Trainer, columns: Columns, in_order: bool) -> SampleTable:
    """The columns of all samples with their names, in the order of the data."""
    datamodule = trainer.datamodule  # type: ignore[attr-defined]
    names = datamodule.sample_names(stage) if in_order else None
    positions = columns["sample"].tolist()
    arrays = {name: values.numpy() for name, values in columns.items()}
    return SampleTable(
        samples=[str(position) if names is None else names[position] for position in positions],
        true=arrays["true"].astype("int64"),
        predicted=arrays["predicted"].astype("int64"),
        confidence=arrays["confidence"],
        loss=arrays["loss"],
        second=arrays["second"].astype("int64"),
        class_names=tuple(datamodule.class_names),
    )


def same(first: Columns | None, second: Columns) -> bool:
    return first is not None and all(torch.equal(values, second[name]) for name, values in first.items())


def describe(logits: Tensor, predicted: Tensor, targets: Tensor, ignore_index: int) -> Columns:
    """What is kept of a batch.

    Args:
        logits: (B, K) float.
        predicted: (B,) int64.
        targets: (B,) int64.
        ignore_index: The target of a sample without a label.

    Returns:
        (B,) each: `true` (-1 without a label), `predicted`, `second` (-1 with a single class) in the smallest integer
        type that holds K; `confidence` and `loss` (NaN without a label) in float32.
    """
    logits = logits.float()
    number = logits.shape[1]
    small = torch.int8 if number < 2**7 else torch.int16 if number < 2**15 else torch.int32
    unlabelled = targets == ignore_index
    logarithms = logits.log_softmax(1)
    others = logits.scatter(1, predicted[:, None], -torch.inf)
    second = others.argmax(1) if number > 1 else torch.full_like(predicted, -1)
    loss = F.nll_loss(logarithms, targets.masked_fill(unlabelled, 0), reduction="none")
    return {
        "true": targets.masked_fill(unlabelled, -1).to(small),
        "predicted": predicted.to(small),
        "second": second.to(small),
        "confidence": logarithms.gather(1, predicted[:, None]).squeeze(1).exp(),
        "loss": loss.masked_fill(unlabelled, torch.nan),
    }


def served_order(loader: Any) -> Iterator[Any] | None:
    """The indices of the samples of each batch, (B,) each; None where a loader of somebody else's mixes them."""
    batches = getattr(loader, "batch_sampler", None)
    if isinstance(batches, EpochBatches):
        return None if batches.shuffle else iter(batches)
    if batches is not None and isinstance(getattr(loader, "sampler", None), SequentialSampler):
        return iter(batches)
    return None
