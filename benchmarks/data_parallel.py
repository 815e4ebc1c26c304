"""Two data-parallel processes against one with the same global batch: images a second, and the same figures.

python benchmarks/data_parallel.py
"""

from common import Row, ratio, write_results

# isort: split
import os
import time
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir

from image_classifier.engine.launch import assembly
from image_classifier.engine.launch.configuration import CONFIG_DIR, PROJECT_ROOT  # and registers the resolvers
from image_classifier.engine.launch.processes import run_in_processes
from image_classifier.engine.training.fitting import epoch_metrics

GLOBAL_BATCH = 256
TRAIN_IMAGES = 5_120
EPOCHS = 5  # the first one warms up and is not counted
PRECISION = "32-true"  # the figures of both are compared to the seventh digit
PAIRS = 1  # of groups of processes, alternating


class Measured(NamedTuple):
    """What one group of processes found."""

    epoch_seconds: list[float]
    untrained: dict[str, float]  # validation figures of the seeded, untrained network: the same weights in every group
    trained: dict[str, float]


class TrainingTimer(pl.Callback):
    """Seconds of the training part of each epoch."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_epoch_start(self, *args: Any) -> None:
        self.start = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == trainer.num_training_batches - 1:  # before the validation
            self.seconds.append(time.perf_counter() - self.start)


def measure(processes: int) -> Measured:
    """Validate, train and validate in this group; every rank calls it."""
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))
    overrides = (
        *("data=synthetic", "model=cnn", "trainer=cpu", "callbacks=none", "confusion_matrix=scalar", "logger=none"),
        *(
            f"data.num_samples={TRAIN_IMAGES * 2}",
            "data.val_size=0.375",
            f"data.batch_size={GLOBAL_BATCH // processes}",
        ),
        *(f"trainer.devices={processes}", f"trainer.max_epochs={EPOCHS}", "paths.run_dir=/nowhere"),
        *("+trainer.enable_checkpointing=false", "+trainer.enable_progress_bar=false"),
        *("+trainer.enable_model_summary=false", "model.optimizer.lr=0.003", f"trainer.precision={PRECISION}"),
    )
    with initialize_config_dir(CONFIG_DIR):
        cfg = compose("train", overrides=list(overrides))
    cfg.confusion_matrix.forms = []
    cfg.paths.root_dir = str(PROJECT_ROOT)
    pl.seed_everything(cfg.seed, verbose=False)
    datamodule = assembly.make_datamodule(cfg)
    model = assembly.make_model(cfg, datamodule)
    trainer = assembly.make_trainer(cfg, [])
    timer = TrainingTimer()
    trainer.callbacks.append(timer)  # type: ignore[attr-defined]
    trainer.validate(model, datamodule, verbose=False)
    untrained = epoch_metrics(trainer, "val/")
    trainer.fit(model, datamodule)
    assert len(datamodule.train_indices) == TRAIN_IMAGES
    return Measured(timer.seconds[1:], untrained, epoch_metrics(trainer, "val/"))


def main() -> list[Row]:
    pairs: list[tuple[float, float]] = []
    for _ in range(PAIRS):
        two, one = (run_in_processes(measure, processes, processes) for processes in (2, 1))
        pairs += zip(one.epoch_seconds, two.epoch_seconds, strict=True)
    speedup, note = ratio(pairs)
    rates = [TRAIN_IMAGES * len(pairs) / sum(column) for column in zip(*pairs, strict=True)]
    differences = [abs(one.untrained[name] - two.untrained[name]) for name in one.untrained]
    question = f"data-parallel, cnn, global batch {GLOBAL_BATCH}, CPU"
    speed_note = (
        f"{PRECISION}, as many threads in all: {rates[1]:,.0f} against {rates[0]:,.0f} images a second; epochs {note}"
    )
    final = ", ".join(f"{found.trained['val/acc']:.4f}" for found in (one, two))
    rows = [
        Row(
            f"{question}: images a second, 2 processes against 1",
            speedup,
            "x",
            None,
            samples=len(pairs),
            note=speed_note,
        ),
        Row(
            f"{question}: largest difference of {len(differences)} validation figures, same weights",
            max(differences),
            "",
            1e-6,
            samples=len(differences),
            note=f"validation accuracy after {EPOCHS} epochs with 1, 2 processes: {final}"
            " (each process normalises its own half of a batch)",
        ),
    ]
    write_results("data_parallel", rows)
    return rows


if __name__ == "__main__":
    main()
