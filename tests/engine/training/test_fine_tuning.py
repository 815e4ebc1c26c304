"""Starting from other weights, keeping some, and factors of the learning rate: against the tensors themselves."""

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from image_classifier.engine.errors import UserError
from image_classifier.engine.training.fine_tuning import class_weights, freeze, frozen_norms, init_from
from image_classifier.engine.training.parameter_groups import parameter_groups

QUIET = ("logger=none", "confusion_matrix=none", "trainer.max_epochs=1", "test=false")
CNN = "image_classifier.models.cnn.CNN"
ADAMW = partial(torch.optim.AdamW, lr=0.1, weight_decay=0.01)


def net(classes: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, classes))


def test_what_fits_is_loaded_and_the_rest_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = net(3), net(7)
    torch.save(
        {"state_dict": {f"net.{name}": value for name, value in source.state_dict().items()}}, tmp_path / "a.ckpt"
    )
    head = target[2].weight.clone()
    init_from(target, str(tmp_path / "a.ckpt"))
    assert torch.equal(target[0].weight, source[0].weight) and torch.equal(target[2].weight, head)
    told = capsys.readouterr().out
    assert "7 of 9 tensors" in told and "2.weight 3x5, here 7x5" in told


@pytest.mark.parametrize("content", ["nothing fits", "no file", "damaged", "code"])
def test_what_cannot_be_loaded_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.ckpt"
    if content == "nothing fits":
        torch.save({"other": torch.zeros(2)}, path)
    if content == "damaged":
        path.write_bytes(b"PK\x03\x04 cut off")
    if content == "code":
        torch.save(net(), path)  # a whole module: loading it would run code
    with pytest.raises(UserError, match="model.init_from"):
        init_from(net(), str(path))


def test_a_run_starts_from_another_with_other_classes(
    train: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = train(*QUIET, f"paths.run_dir={tmp_path}/source") / "checkpoints" / "last.ckpt"
    freezing = ("model.freeze=['1']", f"model.init_from={source}", "data.num_classes=3")  # the first layer of the MLP
    run_dir = train(*QUIET, *freezing, f"paths.run_dir={tmp_path}/target")
    before, after = (torch.load(path, weights_only=True) for path in (source, run_dir / "checkpoints" / "last.ckpt"))
    assert torch.equal(before["state_dict"]["net.1.weight"], after["state_dict"]["net.1.weight"])
    assert after["state_dict"]["net.3.weight"].shape[0] == 3
    assert "Starting from" in capsys.readouterr().out
    source.unlink()  # a checkpoint needs nothing but itself
    from image_classifier import pipeline

    pipeline.load_run(str(run_dir / "checkpoints" / "last.ckpt"))


@pytest.mark.parametrize(
    ("setting", "words"), [("model.freeze=[nowhere]", "model.freeze"), ("model.freeze=['*']", "matches all")]
)
def test_patterns_that_cannot_be_are_refused(train: Callable[..., Path], setting: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        train(*QUIET, setting)


def test_frozen_statistics_stay(train: Callable[..., Path], tmp_path: Path) -> None:
    cnn = (f"model.net._target_={CNN}", "~model.net.hidden_sizes", "+model.net.channels=[4,8]")
    source = train(*QUIET, *cnn, f"paths.run_dir={tmp_path}/source") / "checkpoints" / "last.ckpt"
    before = torch.load(source, weights_only=True)["state_dict"]
    names = [name.removeprefix("net.") for name in before if name.endswith("running_mean")]
    layer = names[0].rpartition(".")[0]
    run_dir = train(
        *QUIET, *cnn, f"model.init_from={source}", f"model.freeze=['{layer}']", f"paths.run_dir={tmp_path}/target"
    )
    after = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(before[f"net.{names[0]}"], after[f"net.{names[0]}"])
    assert not torch.equal(before[f"net.{names[-1]}"], after[f"net.{names[-1]}"])


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("frozen", [["stem"], ["head"], ["*"]])
def test_normalisation_is_frozen_with_what_it_is_part_of(frozen: list[str], affine: bool) -> None:
    parts = {
        "stem": nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, affine=affine)),
        "head": nn.Sequential(nn.Conv2d(4, 4, 3), nn.Sequential(nn.BatchNorm2d(4, affine=affine))),
    }
    network = nn.Sequential(OrderedDict(parts))
    freeze(network, frozen)
    expected = [parts["stem"][1]] * (frozen != ["head"]) + [parts["head"][1][0]] * (frozen != ["stem"])
    assert list(frozen_norms(network)) == expected


@pytest.mark.parametrize("decay_all", [True, False])
@pytest.mark.parametrize("factors", [{}, {"0": 0.5}, {"*.bias": 2.0, "0": 0.5}])
def test_every_parameter_gets_its_rate_and_decay(factors: dict[str, float], decay_all: bool) -> None:
    module = nn.Module()
    module.net = net()
    optimizer = ADAMW(parameter_groups(module, ADAMW, factors, decay_all=decay_all))
    found = {id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    assert len(found) == len(list(module.parameters()))
    for name, parameter in module.net.named_parameters():
        factor = (
            2.0 if "*.bias" in factors and name.endswith(".bias") else factors.get("0", 1.0) if name[0] == "0" else 1.0
        )
        decay = 0.01 if decay_all or parameter.ndim >= 2 else 0.0
        assert found[id(parameter)] == (pytest.approx(0.1 * factor), decay), name


def test_a_pattern_that_names_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="model.lr_factors"):
        parameter_groups(net(), ADAMW, {"nowhere": 0.1}, decay_all=True)


def test_frozen_parameters_are_not_given_to_the_optimizer() -> None:
    network = net()
    freeze(network, ["0"])
    assert len(parameter_groups(network, ADAMW, {}, decay_all=True)) == 4


def test_balanced_weights_equal_scikit_learn() -> None:
    labels = torch.tensor([0] * 7 + [1] * 2 + [2])
    found = class_weights("balanced", torch.bincount(labels))
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels.numpy())
    assert found.tolist() == pytest.approx(expected.tolist())
    assert class_weights([1, 2, 3], torch.ones(3)).tolist() == [1, 2, 3]
    with pytest.raises(UserError, match="3 numbers"):
        class_weights([1, 2], torch.ones(3))


@pytest.mark.parametrize("loss", ["cross_entropy", "focal"])
def test_class_weights_reach_the_loss_and_leave_the_checkpoint_loadable(train: Callable[..., Path], loss: str) -> None:
    from image_classifier import pipeline

    weights = "data.imbalance=10", f"model/loss={loss}", "model.loss.weight=balanced"
    path = train(*QUIET, *weights) / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)["state_dict"]
    assert content["loss.weight"][0] < content["loss.weight"][-1]
    pipeline.load_run(str(path))
