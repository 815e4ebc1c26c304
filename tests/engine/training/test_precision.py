"""Which precision trainer.precision=auto stands for, and that a run keeps it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from image_classifier import pipeline
from image_classifier.engine.training.precision import fastest_precision, forward_work
from image_classifier.models.classifier import Classifier
from image_classifier.models.cnn import CNN
from image_classifier.models.mlp import MLP

BF16 = {"avx512_bf16": True}


def classifier(net: nn.Module, **settings: Any) -> Classifier:
    model = Classifier(net, **settings)
    model.example_input_array = torch.zeros(2, 1, 28, 28)
    return model


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, bool]], None]:
    """Sets what the processor is said to be capable of, without a GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return lambda found: monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)


def test_work_is_that_of_the_layers_once() -> None:
    net = MLP((1, 28, 28), 10, hidden_sizes=[32])
    assert forward_work(classifier(net)) == 2 * (784 * 32 + 32 * 10)
    assert forward_work(classifier(net, test_time_flip=True)) == 2 * (784 * 32 + 32 * 10)
    convolution = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * 784, 10))
    assert forward_work(classifier(convolution)) == 2 * (784 * 9 * 4 + 4 * 784 * 10)


def test_looking_leaves_no_trace() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4).eval(), nn.Dropout(), nn.Flatten(), nn.Linear(2704, 10))
    model = classifier(net)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    forward_work(model)
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in net] == [True, False, True, True, True] and model.training


@pytest.mark.parametrize(
    ("net", "batch_size", "expected"),  # the faster one in benchmarks/results/precision.md
    [
        (MLP((1, 28, 28), 10, hidden_sizes=[32]), 32, "32-true"),
        (MLP((1, 28, 28), 10, hidden_sizes=[32]), 512, "32-true"),
        (MLP((1, 28, 28), 10, hidden_sizes=[512, 256]), 32, "32-true"),
        (MLP((1, 28, 28), 10, hidden_sizes=[512, 256]), 512, "bf16-mixed"),
        (CNN((1, 28, 28), 10), 4, "32-true"),
        (CNN((1, 28, 28), 10), 128, "bf16-mixed"),
    ],
    ids=["tiny-32", "tiny-512", "mlp-32", "mlp-512", "cnn-4", "cnn-128"],
)
def test_bf16_where_it_pays(processor: Callable[..., None], net: nn.Module, batch_size: int, expected: str) -> None:
    processor(BF16)
    assert fastest_precision(classifier(net), batch_size, "auto") == expected
    processor({})
    assert fastest_precision(classifier(net), batch_size, "cpu") == "32-true"


def test_a_compiled_network_counts_as_large(processor: Callable[..., None]) -> None:
    processor(BF16)
    assert fastest_precision(classifier(MLP((1, 28, 28), 10), compile=True), 1, "cpu") == "bf16-mixed"


@pytest.mark.parametrize(("batch_size", "expected"), [(16, "32-true"), (10_000_000, "bf16-mixed")])
def test_all_commands_take_the_choice_of_the_run(
    processor: Callable[..., None],
    train: Callable[..., Path],
    compose_config: Callable[..., Any],
    tmp_path: Path,
    batch_size: int,
    expected: str,
) -> None:
    processor(BF16)
    run_dir = train("logger=none", f"data.batch_size={batch_size}")
    checkpoint = run_dir / "checkpoints" / "last.ckpt"
    assert OmegaConf.load(run_dir / "config.yaml").trainer.precision == expected
    assert torch.load(checkpoint, weights_only=True)["recipe"]["precision"] == expected
    processor({})  # another machine
    resumed = train(
        *("logger=none", f"data.batch_size={batch_size}", f"ckpt_path={checkpoint}", "trainer.max_epochs=3"),
        f"paths.run_dir={tmp_path}/resumed",
    )
    assert OmegaConf.load(resumed / "config.yaml").trainer.precision == expected
    cfg = compose_config(
        *(f"ckpt_path={run_dir}/checkpoints/best.ckpt", f"paths.run_dir={tmp_path}/eval", "callbacks.calibration=null"),
        config_name="eval",
    )
    pipeline.evaluate(cfg)
    assert cfg.trainer.precision == expected
    figures = [json.loads((path / "metrics.json").read_text()) for path in (run_dir, tmp_path / "eval")]
    assert figures[1] and figures[1].items() <= figures[0].items()
