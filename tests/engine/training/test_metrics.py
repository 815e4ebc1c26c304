"""The metrics of the stages against scikit-learn, over uneven batches, processes, and resumes inside an epoch."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from sklearn import metrics as reference
from torch import Tensor, nn

from image_classifier import pipeline
from image_classifier.engine.errors import UserError
from image_classifier.engine.images.normalization import normalize
from image_classifier.engine.launch.assembly import make_metrics
from image_classifier.engine.training.metrics import EpochMetrics

QUIET = ("logger=none", "confusion_matrix=none", "callbacks.early_stopping=null", "trainer.max_epochs=1")

# Name, configuration, the same by scikit-learn of (probabilities, targets).
CASES: dict[str, tuple[dict[str, Any], Callable[[np.ndarray, np.ndarray], float]]] = {
    "top2": (
        {"_target_": "torchmetrics.classification.MulticlassAccuracy", "top_k": 2, "average": "micro"},
        lambda p, y: reference.top_k_accuracy_score(y, p, k=2),
    ),
    "auroc": (
        {"_target_": "torchmetrics.classification.MulticlassAUROC"},
        lambda p, y: reference.roc_auc_score(y, p, multi_class="ovr"),
    ),
    "ap": (
        {"_target_": "torchmetrics.classification.MulticlassAveragePrecision"},
        lambda p, y: reference.average_precision_score(np.eye(p.shape[1])[y], p),
    ),
    "f2": (
        {"_target_": "torchmetrics.classification.MulticlassFBetaScore", "beta": 2.0, "average": "macro"},
        lambda p, y: reference.fbeta_score(y, p.argmax(1), beta=2.0, average="macro"),
    ),
    "mcc": (
        {"_target_": "torchmetrics.classification.MulticlassMatthewsCorrCoef"},
        lambda p, y: reference.matthews_corrcoef(y, p.argmax(1)),
    ),
    "kappa": (
        {"_target_": "torchmetrics.classification.MulticlassCohenKappa"},
        lambda p, y: reference.cohen_kappa_score(y, p.argmax(1)),
    ),
    "by_task": (
        {"_target_": "torchmetrics.Accuracy", "task": "multiclass"},
        lambda p, y: reference.accuracy_score(y, p.argmax(1)),
    ),
}
BINARY: dict[str, tuple[dict[str, Any], Callable[[np.ndarray, np.ndarray], float]]] = {
    "auroc": (
        {"_target_": "torchmetrics.classification.BinaryAUROC"},
        lambda p, y: reference.roc_auc_score(y, p[:, 1]),
    ),
    "f1": (
        {"_target_": "torchmetrics.classification.BinaryF1Score"},
        lambda p, y: reference.f1_score(y, p[:, 1] > 0.5),
    ),
}


def results(classes: int, samples: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(classes)
    targets = torch.randint(classes, (samples,), generator=generator)
    logits = 3 * torch.rand(samples, classes, generator=generator).argsort(1)  # no two of a sample are equal
    logits[torch.arange(samples), targets] += 4
    return logits, targets


@pytest.fixture
def run_metrics(run_test: Callable[..., pl.Trainer]) -> Callable[..., dict[str, float]]:
    def run(chosen: dict[str, Any], logits: Tensor, targets: Tensor, **settings: Any) -> dict[str, float]:
        metrics = make_metrics(chosen, logits.shape[1], ())
        trainer = run_test(logits, targets, EpochMetrics(metrics), batch_size=37, without_metrics=True, **settings)
        return {name: float(value) for name, value in trainer.callback_metrics.items()}

    return run


@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_equals_scikit_learn(run_metrics: Callable[..., dict[str, float]], name: str, ignored: bool) -> None:
    chosen, expected = CASES[name]
    logits, targets = results(5, 301)
    given = targets.clone()
    if ignored:
        given[::7] = -100
    known = given >= 0
    found = run_metrics({name: chosen}, logits, given)
    probabilities = logits.float().softmax(1)[known].numpy()
    assert found[f"test/{name}"] == pytest.approx(expected(probabilities, targets[known].numpy()), abs=1e-5)


@pytest.mark.parametrize("name", BINARY)
def test_two_classes_take_the_probability_of_the_second(
    run_metrics: Callable[..., dict[str, float]], name: str
) -> None:
    chosen, expected = BINARY[name]
    logits, targets = results(2, 200)
    found = run_metrics({name: chosen}, logits, targets)
    assert found[f"test/{name}"] == pytest.approx(
        expected(logits.float().softmax(1).numpy(), targets.numpy()), abs=1e-5
    )


def test_one_value_for_each_class_has_its_name(run_metrics: Callable[..., dict[str, float]]) -> None:
    chosen = {"recall": {"_target_": "torchmetrics.classification.MulticlassRecall", "average": "none"}}
    logits, targets = results(3, 100)
    found = run_metrics(chosen, logits, targets, class_names=["a b", "c", "d"])
    expected = reference.recall_score(targets, logits.argmax(1), average=None)
    assert [found[f"test/recall/{name}"] for name in ("a_b", "c", "d")] == pytest.approx(expected.tolist())


def test_several_processes_count_each_sample_once(run_test: Callable[..., pl.Trainer], tmp_path: Path) -> None:
    class Save(pl.Callback):
        def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            found = {name: float(value) for name, value in trainer.callback_metrics.items()}
            (tmp_path / f"rank_{trainer.global_rank}.json").write_text(json.dumps(found))

    logits, targets = results(5, 103)
    metrics = make_metrics({name: chosen for name, (chosen, _) in CASES.items()}, 5, ())
    run_test(
        logits,
        targets,
        EpochMetrics(metrics),
        Save(),
        batch_size=16,
        without_metrics=True,
        devices=2,
        strategy="ddp_fork",
    )
    for rank in range(2):
        found = json.loads((tmp_path / f"rank_{rank}.json").read_text())
        for name, (_, expected) in CASES.items():
            value = expected(logits.float().softmax(1).numpy(), targets.numpy())
            assert found[f"test/{name}"] == pytest.approx(value, abs=1e-5), name


def test_added_metrics_choose_the_best_epoch_and_survive_in_the_checkpoint(
    train: Callable[..., Path], compose_config: Callable[..., Any], tmp_path: Path
) -> None:
    top2 = "+metrics.top2={_target_: torchmetrics.classification.MulticlassAccuracy, top_k: 2, average: micro}"
    run_dir = train(*QUIET, top2, "monitor.metric=val/top2", "monitor.mode=max")
    found = json.loads((run_dir / "metrics.json").read_text())
    assert {"val/top2", "test/top2"} <= set(found) and found["test/top2"] >= found["test/acc"]
    cfg = compose_config(
        f"ckpt_path={run_dir}/checkpoints/best.ckpt",
        f"paths.run_dir={tmp_path}/eval",
        "callbacks.report=null",
        config_name="eval",
    )
    pipeline.evaluate(cfg)
    assert json.loads((tmp_path / "eval" / "metrics.json").read_text())["test/top2"] == found["test/top2"]


@pytest.mark.parametrize("way", ["eval", "train=false"])
def test_metrics_may_be_added_when_a_checkpoint_is_tested(
    train: Callable[..., Path], compose_config: Callable[..., Any], tmp_path: Path, way: str
) -> None:
    kappa = "+metrics.kappa={_target_: torchmetrics.classification.MulticlassCohenKappa}"
    checkpoint = f"ckpt_path={train(*QUIET)}/checkpoints/best.ckpt"
    directory = tmp_path / "tested"
    if way == "eval":
        settings = (checkpoint, kappa, f"paths.run_dir={directory}", "callbacks.report=null")
        pipeline.evaluate(compose_config(*settings, config_name="eval"))
    else:
        train(*QUIET, checkpoint, kappa, f"paths.run_dir={directory}", "train=false")
    assert "test/kappa" in json.loads((directory / "metrics.json").read_text())


@pytest.mark.parametrize("batches", [1, 2, 3, 4])
def test_the_training_loss_is_that_of_the_images_whatever_makes_a_step(
    train: Callable[..., Path], batches: int
) -> None:
    """Lightning hands callbacks the loss divided by the batches of a step."""
    still = ("model.optimizer._target_=torch.optim.SGD", "model.optimizer.lr=1e-20", "model.scheduler=null")
    run_dir = train(*QUIET, *still, f"trainer.accumulate_grad_batches={batches}", "trainer.precision=32-true")
    model, data = pipeline.load_run(str(run_dir / "checkpoints" / "last.ckpt"))
    data.setup("fit")
    images, labels = data.train_images.images[data.train_indices], data.train_images.labels[data.train_indices]
    with torch.no_grad():
        expected = nn.functional.cross_entropy(model.eval()(normalize(images, data.mean, data.std)), labels)
    found = json.loads((run_dir / "metrics.json").read_text())
    assert found["train/loss"] == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ("{_target_: torch.nn.Linear, in_features: 1, out_features: 1}", "to be a metric of torchmetrics"),
        ("{_target_: torchmetrics.classification.MulticlassROC}", "to compute a number"),
        ("{_target_: torchmetrics.classification.MulticlassAccuracy, top_k: -1}", "metrics.x"),
        ("{_target_: torchmetrics.classification.MultilabelAccuracy, num_labels: 3}", "take probabilities and classes"),
    ],
)
def test_what_is_no_metric_of_classes_is_told_in_a_line(train: Callable[..., Path], chosen: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        train(*QUIET, f"+metrics.x={chosen}")


@pytest.mark.parametrize("name", ["acc", "loss", "macro_f1", "weighted_f1", "balanced_acc", "ece", "loss_step"])
def test_a_name_that_is_taken_is_refused(train: Callable[..., Path], tmp_path: Path, name: str) -> None:
    """Lightning would log the mean of the two."""
    chosen = "{_target_: torchmetrics.classification.MulticlassAccuracy, top_k: 3, average: micro}"
    with pytest.raises(UserError, match=rf"free but found {name}, .* metrics.own_{name}"):
        train(*QUIET, f"+metrics.{name}={chosen}")


class OwnModule(pl.LightningModule):
    """A module that is no Classifier: as little as it has to return."""

    def __init__(self, returns: str) -> None:
        super().__init__()
        self.layer, self.returns = nn.Linear(64, 4), returns

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        logits = self.layer(batch[0].flatten(1))
        loss = nn.functional.cross_entropy(logits, batch[1])
        return {"loss": loss, "logits": logits.detach()} if self.returns == "logits" else loss

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        return self.layer(batch[0].flatten(1))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit_own(module: pl.LightningModule, **settings: Any) -> pl.Trainer:
    from image_classifier.data.synthetic import Synthetic

    data = Synthetic(num_classes=4, num_samples=120, image_size=8, batch_size=16, val_size=0.25)
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[EpochMetrics()], **settings,
    )  # fmt: skip
    trainer.fit(module, data)
    return trainer


@pytest.mark.parametrize("manual", [False, True])
def test_steps_without_a_loss_count_nowhere(manual: bool) -> None:
    class Skips(OwnModule):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return None if manual or batch_idx % 2 else super().training_step(batch, batch_idx)

    module = Skips("logits")
    module.automatic_optimization = not manual
    logged = fit_own(module).callback_metrics
    assert {"val/loss", "val/acc"} <= set(logged) and ("train/loss" in logged) != manual


def test_targets_are_those_of_the_step_whatever_the_loader_does_with_them_later() -> None:
    class Reuses(OwnModule):
        """Stands for a loader that writes each batch into the same memory."""

        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            batch[1].fill_(0)

    often, seldom = (
        fit_own(pl.seed_everything(1, verbose=False) and Reuses("logits"), log_every_n_steps=every).callback_metrics
        for every in (1, 50)
    )
    assert seldom["train/acc"] == often["train/acc"] and seldom["train/loss"] == pytest.approx(often["train/loss"])


def test_what_the_module_logs_by_a_name_of_the_project_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    class Logs(OwnModule):
        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("val/acc", 0.123)
            return super().validation_step(batch, batch_idx)

    assert fit_own(Logs("logits")).callback_metrics["val/acc"] != 0.123
    assert capsys.readouterr().out.count("logs as val/acc is not kept") == 1


@pytest.mark.parametrize(
    ("outputs", "told"),
    [
        (lambda logits: None, "return .* logits.* found NoneType"),
        (lambda logits: {"loss": logits.mean()}, "found NoneType"),
        (lambda logits: torch.cat((logits, logits[:, :1]), 1), r"\(\d+, 4\) .* found a tensor of \(\d+, 5\)"),
        (lambda logits: logits[:, :2], r"found a tensor of \(\d+, 2\)"),
    ],
)
def test_validation_steps_that_return_no_logits_of_the_classes_are_told(outputs: Any, told: str) -> None:
    class Returns(OwnModule):
        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            return outputs(super().validation_step(batch, batch_idx))

    with pytest.raises(UserError, match=told):
        fit_own(Returns("logits"))


@pytest.mark.parametrize(("returns", "expected"), [("loss", {"loss"}), ("logits", {"loss", "acc"})])
def test_a_module_of_ones_own_has_metrics(returns: str, expected: Sequence[str]) -> None:
    found = set(fit_own(OwnModule(returns)).callback_metrics)
    assert {name.removeprefix("train/") for name in found if name.startswith("train/")} - {"loss_step"} == expected
    assert {"val/loss", "val/acc"} <= found
