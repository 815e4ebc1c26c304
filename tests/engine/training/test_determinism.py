"""The same seed on the same machine gives the same weights to the last bit, whatever watches the training."""

import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from sweeping import run

from image_classifier.engine.project import PROJECT_ROOT
from picture_sources import write_noise
from run_directories import same
from tiny import TINY_DATA

# All that draws random numbers: order, augmentation of the batch and of each image, blended images, dropout.
RANDOM = (
    *("model=wide_resnet", "model.net.depth=10", "model.net.width=1", "model.net.dropout=0.5", "data.batch_size=12"),
    *("data.mirror=true", "data.augmentation.flip=0.5", "data.augmentation.shift=2", "data.augmentation.erase=0.5"),
    *("data.augmentation.transforms=[{_target_: torchvision.transforms.v2.RandomRotation, degrees: 20}]",),
    *("data.mix.mixup=0.2", "data.mix.cutmix=0.5"),
)
SHORT = ("trainer.precision=32-true", "trainer.limit_train_batches=6")
BASE = ("trainer=cpu", "trainer.max_epochs=2", "model.optimizer.lr=0.01", "confusion_matrix=none", "logger=none")
SYNTHETIC = (*BASE, *TINY_DATA, *RANDOM, *SHORT)
FILES = (*BASE, *RANDOM, *SHORT, "data=image_folder", "data.image_size=8", "data.root=PICTURES")

# All callbacks of a training but the one without which there would be no last.ckpt to compare.
DEFAULTS = yaml.safe_load((PROJECT_ROOT / "configs" / "callbacks" / "default.yaml").read_text())["defaults"]
CALLBACKS = [name for name in DEFAULTS if name != "model_checkpoint"]
ON = {name: f"with callbacks.{name}" for name in CALLBACKS}  # a word of ours that leaves one of them switched on

LOGGERS = ("csv", "tensorboard", "wandb", "mlflow", "trackio")
EVERYTHING = (*ON.values(), "confusion_matrix=all", f"logger=[{','.join(LOGGERS)}]")
TOP2 = "{_target_: torchmetrics.classification.MulticlassAccuracy, top_k: 2, average: micro}"
KAPPA = "{_target_: torchmetrics.classification.MulticlassCohenKappa}"
FORMS = ("none", "image", "scalar", "table", "chart", "all")

WATCHERS: dict[str, tuple[str, ...]] = {
    "once more": (),
    **{f"logger={name}": (f"logger={name}", ON["learning_rate_monitor"]) for name in LOGGERS},
    **{f"logger={'+'.join(pair)}": (f"logger=[{','.join(pair)}]",) for pair in itertools.combinations(LOGGERS, 2)},
    **{f"forms={form}": (f"confusion_matrix={form}", "logger=csv") for form in FORMS},
    **{f"forms={form}, no logger": (f"confusion_matrix={form}",) for form in FORMS},
    **{f"normalize={mode}": ("confusion_matrix=all", f"confusion_matrix.normalize={mode}") for mode in ("true", "all")},
    "matrix of every other epoch": ("confusion_matrix=all", "confusion_matrix.every_n_epochs=2"),
    "all callbacks": tuple(ON.values()),
    **{f"callbacks.{name}": (word, "logger=csv") for name, word in ON.items()},
    "no checkpoint of the best": ("callbacks.model_checkpoint=null",),
    "many checkpoints": ("callbacks.model_checkpoint.save_top_k=-1", "+callbacks.last_checkpoint.every_n_steps=1"),
    "everything at once": EVERYTHING,
    "shortcuts=false": ("shortcuts=false",),
    "shortcuts=false, everything at once": ("shortcuts=false", *EVERYTHING),
    "a quick progress bar": (ON["progress_bar"], "callbacks.progress_bar.refresh_rate=100"),
    "no progress bar": ("+trainer.enable_progress_bar=false",),
    "verbose": ("hydra.verbose=true", ON["model_summary"]),
    "many lines of a log": ("logger=csv", "trainer.log_every_n_steps=1"),
    "a profiler": ("trainer.profiler=simple",),
    "a metric": (f"+metrics.top2={TOP2}",),
    "metrics": (f"+metrics.top2={TOP2}", f"+metrics.kappa={KAPPA}"),
    "no test": ("test=false",),
    "a validation before": ("trainer.num_sanity_val_steps=2",),
    "rarer validations": ("+trainer.check_val_every_n_epoch=2",),
    "smaller batches in validation": ("data.eval_batch_size=7",),
    "another goal": ("monitor.metric=val/loss",),
}
READERS: dict[str, tuple[str, ...]] = {
    "once more": (),
    **{f"{count} workers": ("data.in_memory=false", f"data.num_workers={count}") for count in (0, 1, 2)},
    "in memory": ("data.in_memory=true",),
    "kept decoded": ("data.in_memory=false", "data.num_workers=0", "data.cache=CACHE"),
    "kept decoded, two workers": ("data.in_memory=false", "data.num_workers=2", "data.cache=CACHE"),
    "two workers, shortcuts=false": ("data.in_memory=false", "data.num_workers=2", "shortcuts=false"),
    "two workers, everything at once": ("data.in_memory=false", "data.num_workers=2", *EVERYTHING),
}


@pytest.fixture(autouse=True)
def no_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_noise(tmp_path_factory.mktemp("pictures"), 10, 12)


Weights = dict[str, Any]
Train = Callable[..., Weights]


@pytest.fixture
def weights_of(pictures: Path, tmp_path: Path) -> Train:
    """Train, and return what the last checkpoint holds of the network and its optimizer."""

    def train(*overrides: str) -> Weights:
        places = {"PICTURES": str(pictures), "CACHE": str(tmp_path / "cache")}
        given = [f"hydra.run.dir={tmp_path}/run", f"paths.output_dir={tmp_path}/outputs"]
        given += [f"callbacks.{name}=null" for name, word in ON.items() if word not in overrides]
        for override in (text for text in overrides if text not in ON.values()):
            for word, path in places.items():
                override = override.replace(word, path)
            given.append(override)
        outcome = run(*given)
        assert outcome.status == 0, outcome.errors[-3000:]
        return read_weights(tmp_path / "run")

    return train


def read_weights(run_dir: Path) -> Weights:
    checkpoint = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)
    return {part: checkpoint[part] for part in ("state_dict", "optimizer_states", "lr_schedulers", "global_step")}


@pytest.fixture(scope="module")
def references() -> dict[tuple[str, ...], Weights]:
    return {}


@pytest.fixture
def reference(references: dict[tuple[str, ...], Weights], weights_of: Train) -> Train:
    """The weights of a run that nothing watches, trained once."""

    def train(*overrides: str) -> Weights:
        if overrides not in references:
            references[overrides] = weights_of(*overrides)
        return references[overrides]

    return train


@pytest.mark.sampled(every=12)
@pytest.mark.parametrize("case", WATCHERS)
def test_what_watches_a_training_changes_no_weight(reference: Train, weights_of: Train, case: str) -> None:
    assert same(reference(*SYNTHETIC), weights_of(*SYNTHETIC, *WATCHERS[case]))


@pytest.mark.sampled(every=4)
@pytest.mark.parametrize("case", READERS)
def test_who_reads_the_pictures_changes_no_weight(reference: Train, weights_of: Train, case: str) -> None:
    assert same(reference(*FILES), weights_of(*FILES, *READERS[case]))


@pytest.mark.parametrize(
    "other",
    ["seed=2", "model.net.dropout=0.4", "data.augmentation.flip=0.4", "data.mix.mixup=0.3", "data.batch_size=11"],
)
@pytest.mark.sampled(every=5)
def test_every_source_of_chance_is_in_the_comparison(reference: Train, weights_of: Train, other: str) -> None:
    """Another seed, or a little more or less of anything that is drawn, does show in the weights."""
    assert not same(reference(*SYNTHETIC), weights_of(*SYNTHETIC, other))


@pytest.mark.slow
def test_processes_of_their_own(tmp_path: Path, reference: Train) -> None:
    """As a user starts them: twice, with other seeds of Python's own hashes, and as a job of a sweep."""
    given = [*SYNTHETIC, *(f"callbacks.{name}=null" for name in CALLBACKS)]
    for number in range(2):
        command = [sys.executable, str(PROJECT_ROOT / "train.py"), *given, f"hydra.run.dir={tmp_path}/{number}"]
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PYTHONHASHSEED": str(number)})
    assert same(read_weights(tmp_path / "0"), read_weights(tmp_path / "1"))
    swept = run("-m", *given, "seed=2,1", "data.eval_batch_size=50,60", f"hydra.sweep.dir={tmp_path}/sweep")
    assert swept.status == 0, swept.errors
    for number in (2, 3):
        assert same(reference(*SYNTHETIC), read_weights(tmp_path / "sweep" / str(number)))
