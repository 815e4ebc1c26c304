"""Every network takes every image shape and class count, and learns in all of its parameters."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from image_classifier.engine.errors import UserError
from image_classifier.engine.launch import assembly
from image_classifier.engine.launch.objects import make
from image_classifier.engine.project import CONFIG_DIR
from image_classifier.models.cnn import CNN
from image_classifier.models.mlp import MLP

MODELS = sorted(path.stem for path in Path(CONFIG_DIR, "model").glob("*.yaml") if path.stem != "classifier")
SMALL = {  # so that a case takes milliseconds
    "cnn": ["model.net.channels=[4,8,8]", "model.net.hidden_size=8"],
    "mlp": ["model.net.hidden_sizes=[8,8]"],
    "wide_resnet": ["model.net.depth=10", "model.net.width=1"],
    "timm": ["model.net.name=test_resnet"],
}
SHAPES = [  # channels, height, width, classes
    *((1, 1, 1, 2), (3, 2, 2, 10), (2, 7, 7, 101), (5, 8, 8, 1000), (1, 28, 28, 10), (4, 33, 33, 3), (3, 64, 64, 10)),
    *((1, 1, 5, 3), (3, 16, 10, 2), (2, 5, 20, 1000)),
]


@pytest.mark.parametrize("size", [28, 64])
@pytest.mark.parametrize("model", MODELS)
def test_model_is_made_by_the_pipeline_and_trains(compose_config: Callable[..., Any], model: str, size: int) -> None:
    cfg = compose_config(
        *("data=synthetic", f"data.image_size={size}", "data.num_samples=20", f"model={model}", *SMALL.get(model, [])),
        "trainer.precision=32-true",
    )
    datamodule = assembly.make_datamodule(cfg)
    classifier = assembly.make_model(cfg, datamodule)
    images, targets = torch.randn(4, 1, size, size), torch.tensor([0, 1, 9, 9])
    loss = F.cross_entropy(classifier.net(images), targets)
    loss.backward()
    assert 0.5 < loss < 10  # chance is log(10)
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in classifier.parameters())
    assert classifier.eval()(images).shape == (4, 10)


@pytest.mark.sampled(every=3)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("model", MODELS)
def test_logits_and_gradients(compose_config: Callable[..., Any], model: str, shape: tuple[int, int, int, int]) -> None:
    *image_shape, num_classes = shape
    cfg = compose_config("data=synthetic", f"model={model}", *SMALL.get(model, [])).model.net
    net = make(cfg, image_shape=image_shape, num_classes=num_classes)
    logits = net(torch.randn(3, *image_shape))
    assert logits.shape == (3, num_classes)
    F.cross_entropy(logits, torch.tensor([0, 1, 1])).backward()
    assert all(parameter.grad is not None for parameter in net.parameters())
    with torch.no_grad():
        alone = net.eval()(torch.randn(1, *image_shape))
    assert alone.shape == (1, num_classes) and alone.isfinite().all()


@pytest.mark.sampled(every=7)
@pytest.mark.parametrize(
    ("model", "setting", "example"),
    [
        *(
            ("cnn", f"channels={value}", "channels=[16,32,96]")
            for value in ("16", "[0]", "[-1]", "[2.5]", "[a]", "null")
        ),
        *(("cnn", f"hidden_size={value}", "hidden_size=128") for value in ("0", "-3", "2.5", "null", "[8]", "true")),
        *(
            ("mlp", f"hidden_sizes={value}", r"hidden_sizes=\[512,256,128,64,32\]")
            for value in ("5", "[0]", "[-1]", "[1.5]")
        ),
        *(("wide_resnet", f"depth={value}", "depth=40") for value in ("41", "4", "0", "-2", "10.0", "deep", "null")),
        *(("wide_resnet", f"width={value}", "width=4") for value in ("0", "-1", "1.5", "null")),
        *(("wide_resnet", f"dropout={value}", "dropout=0.0") for value in ("1", "1.5", "-0.1", "much", "null")),
        *(
            ("resnet18", f"name={value}", "name=resnet18")
            for value in (
                "vgg11",
                "nosuch",
                "fcn_resnet50",
                "r3d_18",
                "quantized_resnet18",
                "vit_b_16",
                "googlenet",
                "5",
            )
        ),
    ],
)
def test_argument_that_no_network_can_have(
    compose_config: Callable[..., Any], model: str, setting: str, example: str
) -> None:
    name = setting.split("=")[0]
    with pytest.raises(UserError, match=rf"^expected model\.net\.{name} to be .*; for example model\.net\.") as refusal:
        cfg = compose_config("data=synthetic", f"model={model}", f"model.net.{setting}")
        assembly.make_model(cfg, assembly.make_datamodule(cfg))
    assert str(refusal.value).endswith(example.replace("\\", "")) and "\n" not in str(refusal.value)


def test_no_hidden_layer_and_no_stage_are_networks_too() -> None:
    assert [type(layer).__name__ for layer in MLP((1, 4, 4), 3, hidden_sizes=[])] == ["Flatten", "Linear"]
    assert CNN((1, 4, 4), 3, channels=[]).head[1].in_features == 16


@pytest.mark.parametrize("name", ["resnet34", "resnext50_32x4d"])
def test_other_resnets(compose_config: Callable[..., Any], name: str) -> None:
    net = make(
        compose_config("model=resnet18", f"model.net.name={name}").model.net, image_shape=(1, 8, 8), num_classes=3
    )
    assert net(torch.randn(2, 1, 8, 8)).shape == (2, 3)


def test_large_images_can_have_the_stem_of_imagenet(compose_config: Callable[..., Any]) -> None:
    cfg = compose_config("data=synthetic", "model=resnet18", "model.net.small_images=false").model.net
    net = make(cfg, image_shape=(3, 64, 64), num_classes=10)
    assert net(torch.randn(2, 3, 64, 64)).shape == (2, 10)
    assert net.conv1.stride == (2, 2)


def test_mlp_is_the_sequence_of_its_layers() -> None:
    net = MLP((2, 3, 4), 5, hidden_sizes=[7, 6])
    images = torch.randn(8, 2, 3, 4)
    first, second, third = (layer for layer in net if isinstance(layer, torch.nn.Linear))
    hidden = F.relu(images.reshape(8, 24) @ first.weight.T + first.bias)
    hidden = F.relu(hidden @ second.weight.T + second.bias)
    torch.testing.assert_close(net(images), hidden @ third.weight.T + third.bias)
    assert sum(parameter.numel() for parameter in net.parameters()) == 25 * 7 + 8 * 6 + 7 * 5
    assert MLP((1, 28, 28), 10)[1].weight.shape == (512, 784)  # type: ignore[union-attr]


def test_cnn_survives_images_too_small_to_halve() -> None:
    assert CNN((1, 1, 2), 3, channels=[4, 4, 4]).eval()(torch.randn(2, 1, 1, 2)).shape == (2, 3)
