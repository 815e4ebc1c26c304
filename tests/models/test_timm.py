"""Networks of timm: any size and number of channels, what pretrained ones see, what cannot be had, and rebuilding."""

import json
import math
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2

from image_classifier import pipeline
from image_classifier.engine.errors import UserError
from image_classifier.engine.hub import local_files_if_unreachable, unreachable
from image_classifier.engine.images.normalization import normalize
from image_classifier.engine.launch import assembly
from image_classifier.models.timm import TimmNetwork, makes_logits, resize, timm_network
from tiny import TINY

# The sizes that a family does not take, and the size that timm states for it.
FAMILIES: dict[str, tuple[set[int], int]] = {
    "resnet10t": (set(), 176),
    "mnasnet_050": (set(), 224),
    "mobilenetv3_small_050": (set(), 224),
    "convnext_atto": ({28}, 224),
    "vit_tiny_patch16_224": ({28, 64}, 224),
    "test_vit_relpos": ({28, 64, 224}, 160),
}
NORMALIZATION = {"L": ((0.286,), (0.353,)), "RGB": ((0.5, 0.4, 0.3), (0.25, 0.2, 0.3))}  # mean, standard deviation


@pytest.mark.sampled(every=5)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [28, 64, 224])
@pytest.mark.parametrize("name", FAMILIES)
def test_family_trains_on_images_of_any_size(
    compose_config: Callable[..., Any], name: str, size: int, channels: int
) -> None:
    cfg = compose_config(
        *("model=timm", f"model.net.name={name}", "data=synthetic", "data.num_classes=5", "data.num_samples=20"),
        *(f"data.image_size={size}", f"data.channels={channels}", "trainer.precision=32-true"),
    )
    torch.manual_seed(0)
    model = assembly.make_model(cfg, assembly.make_datamodule(cfg))
    net = model.net
    assert isinstance(net, TimmNetwork)
    refused, stated = FAMILIES[name]
    assert net.size == ((stated, stated) if size in refused else None)
    assert net.training
    optimizer = torch.optim.SGD(net.parameters(), lr=0.001)
    batch = 8 if net.size is None and size < 224 else 2  # BatchNorm of two single pixels explodes
    logits = net(torch.randn(batch, channels, size, size))
    assert logits.shape == (batch, 5)
    loss = F.cross_entropy(logits, torch.arange(batch) % 5)
    assert loss.isfinite()
    loss.backward()
    before = [parameter.detach().clone() for parameter in net.parameters()]
    optimizer.step()
    assert any(not torch.equal(old, new) for old, new in zip(before, net.parameters(), strict=True))
    with torch.no_grad():
        assert model.eval()(torch.randn(1, channels, size, size)).isfinite().all()  # a single image


def test_a_network_sees_its_own_size_only_where_it_must() -> None:
    seen: list[Tensor] = []
    for size in (28, 160):
        net = timm_network((3, size, size), 4, "test_vit_relpos").eval()
        net.network.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
        images = torch.randn(2, 3, size, size)
        net(images)
        expected = images if size == 160 else F.interpolate(images, (160, 160), mode="bilinear")
        torch.testing.assert_close(seen[-1], expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [(8, 8), (40, 40), (8, 40)])
def test_resizing_in_every_precision(dtype: torch.dtype, size: tuple[int, int]) -> None:
    images = torch.rand(2, 3, 16, 20, dtype=torch.float64)
    resized = resize(images.to(dtype), size)
    assert resized.dtype == dtype and resized.shape == (2, 3, *size)
    reference = F.interpolate(images, size, mode="bilinear", antialias=True)
    torch.testing.assert_close(resized.double(), reference, atol=8 * torch.finfo(dtype).eps, rtol=0)


def test_shrinking_averages_what_it_leaves_out() -> None:
    stripes = torch.tensor([0.0, 1.0]).repeat(1, 1, 64, 32)  # (1, 1, 64, 64)
    assert (resize(stripes, (16, 16)) - 0.5).abs().max() < 0.1


class Undefined(nn.Module):
    """An average over no pixels, as networks make it that have halved an image too often."""

    def forward(self, images: Tensor) -> Tensor:
        return images.new_full((len(images), 3), math.nan)


def test_a_trial_leaves_the_network_as_it_was() -> None:
    net = timm.create_model("test_resnet", num_classes=3)
    state = {key: value.clone() for key, value in net.state_dict().items()}
    assert makes_logits(net, (3, 32, 32), 3) and net.training
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    assert not makes_logits(net, (3, 32, 32), 4)
    assert not makes_logits(net, (2, 32, 32), 3)
    assert not makes_logits(Undefined(), (3, 32, 32), 3)


@pytest.fixture
def publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Puts random weights of a network where timm looks before it downloads any; returns their file."""

    def save(name: str) -> Path:
        file = tmp_path / f"{name}.pth"
        torch.manual_seed(1)
        torch.save(timm.create_model(name).state_dict(), file)
        stated = timm.models._registry._model_pretrained_cfgs[name]  # by name and, in other entries, by name.tag
        monkeypatch.setattr(stated, "file", str(file))
        monkeypatch.setattr(stated, "custom_load", False)
        return file

    return save


def smooth_picture(mode: str, size: int) -> Image.Image:
    coarse = torch.rand(1, len(mode), 5, 5, generator=torch.Generator().manual_seed(2))
    pixels = F.interpolate(coarse, (size, size), mode="bicubic").clamp(0, 1).mul(255).byte()
    return v2.functional.to_pil_image(pixels[0])


def seen_by_timm(network: nn.Module, picture: Image.Image) -> Tensor:
    """What timm's own preprocessing makes of the whole picture: (1, 3, H, W)."""
    settings = timm.data.resolve_model_data_config(network) | {"crop_pct": 1.0, "interpolation": "bilinear"}
    return timm.data.create_transform(**settings)(picture.convert("RGB"))[None]


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize(
    ("name", "size"), [("test_vit", 160), ("test_vit", 28), ("resnet10t", 176), ("resnet10t", 200)]
)
def test_pretrained_sees_what_timm_states(publish: Callable[[str], Path], name: str, size: int, mode: str) -> None:
    publish(name)
    reference = timm.create_model(name, pretrained=True).eval()
    mean, std = NORMALIZATION[mode]
    net = timm_network((len(mode), size, size), 1000, name, pretrained=True, mean=mean, std=std).eval()
    seen: list[Tensor] = []
    net.network.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))

    picture = smooth_picture(mode, size)
    with torch.no_grad():
        logits = net(normalize(v2.functional.pil_to_tensor(picture)[None], mean, std))
        expected = seen_by_timm(reference, picture)
        # Pillow rounds what it resizes to one of 256 grey levels, which the standard deviation magnifies.
        rounding = 0 if size == expected.shape[-1] else 1.01 / 255 / min(reference.pretrained_cfg["std"])
        torch.testing.assert_close(seen[0], expected, atol=rounding + 1e-5, rtol=0)
        torch.testing.assert_close(logits, reference(seen[0]), atol=1e-6, rtol=1e-6)
        if size == expected.shape[-1]:
            torch.testing.assert_close(logits, reference(expected), atol=1e-4, rtol=1e-4)


def test_pretrained_with_four_channels_repeats_the_statistics_as_timm_repeats_the_weights(
    publish: Callable[[str], Path],
) -> None:
    publish("resnet10t")
    mean, std = (0.1, 0.2, 0.3, 0.4), (0.5, 0.6, 0.7, 0.8)
    net = timm_network((4, 32, 32), 5, "resnet10t", pretrained=True, mean=mean, std=std).eval()
    pixels = torch.rand(1, 4, 176, 176)
    seen: list[Tensor] = []
    net.network.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    net((pixels - torch.tensor(mean).view(4, 1, 1)) / torch.tensor(std).view(4, 1, 1))
    stated_mean, stated_std = (0.485, 0.456, 0.406, 0.485), (0.229, 0.224, 0.225, 0.229)
    expected = (pixels - torch.tensor(stated_mean).view(4, 1, 1)) / torch.tensor(stated_std).view(4, 1, 1)
    torch.testing.assert_close(seen[0], expected, atol=1e-5, rtol=1e-5)


def test_a_pretrained_run_is_rebuilt_from_its_checkpoint_alone(
    publish: Callable[[str], Path], compose_config: Callable[..., Any], tmp_path: Path
) -> None:
    weights = publish("test_vit")
    cfg = compose_config(
        *(override for override in TINY if not override.startswith("model.net")),
        *("model=timm", "model.net.name=test_vit", "model.net.pretrained=true", "model.optimizer.lr=0.001"),
        *("data.num_samples=60", "data.batch_size=16", "trainer.max_epochs=1", "logger=none"),
    )
    pipeline.train(cfg)
    weights.unlink()  # no evaluation loads them
    checkpoint = tmp_path / "run" / "checkpoints" / "best.ckpt"
    saved = torch.load(checkpoint, weights_only=True)
    assert saved["recipe"]["model"]["net"]["pretrained"] is True
    # test_vit is for pixels from -1 to 1; the synthetic images are pixels less 0.5 in units of 0.25.
    torch.testing.assert_close(saved["state_dict"]["net.scale"], torch.full((3, 1, 1), 0.5))
    torch.testing.assert_close(saved["state_dict"]["net.offset"], torch.zeros(3, 1, 1))
    settings = (f"ckpt_path={checkpoint}", f"paths.run_dir={tmp_path}/eval", "callbacks.calibration=null")
    pipeline.evaluate(compose_config(*settings, config_name="eval"))
    trained, evaluated = (json.loads((tmp_path / run / "metrics.json").read_text()) for run in ("run", "eval"))
    assert evaluated and evaluated == {key: value for key, value in trained.items() if key.startswith("test/")}
    with pytest.raises(UserError, match="published weights"):
        pipeline.train(cfg)


def test_pretrained_weights_are_those_of_the_file(publish: Callable[[str], Path]) -> None:
    weights = torch.load(publish("test_resnet"), weights_only=True)
    net = timm_network((1, 28, 28), 5, "test_resnet", pretrained=True, mean=[0.5], std=[0.25])
    backbone = {key: value for key, value in net.network.state_dict().items() if not key.startswith("fc.")}
    assert backbone and all(torch.equal(value, weights[key]) for key, value in backbone.items())
    rebuilt = timm_network((1, 28, 28), 5, "test_resnet", pretrained=True, mean=[0.5], std=[0.25], load_weights=False)
    assert not torch.equal(rebuilt.network.conv1[0].weight, net.network.conv1[0].weight)  # type: ignore[index,union-attr]
    rebuilt.load_state_dict(net.state_dict())
    images = torch.randn(2, 1, 28, 28)
    torch.testing.assert_close(rebuilt.eval()(images), net.eval()(images), atol=0, rtol=0)


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub without a network, and nothing downloaded yet."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "nosuch18"}, "expected the name of a timm network but found 'nosuch18'"),
        ({"name": "resnet10"}, "similar ones: .*resnet10t"),
        ({"name": ""}, "expected the name of a timm network but found ''"),
        ({"name": "hf-hub:timm/resnet18"}, "expected the name of a timm network"),
        ({"name": "local-dir:/tmp"}, "expected the name of a timm network"),
        ({"name": "resnet18.nosuch"}, "Invalid pretrained tag"),
        ({"name": "resnet18.nosuch", "pretrained": True}, "Invalid pretrained tag"),
        ({"name": "dpn48b", "pretrained": True}, "No pretrained weights exist for dpn48b"),
        ({"name": "test_resnet", "pretrained": True}, "start without them: model.net.pretrained=false"),
        ({"name": "test_resnet", "pretrained": True, "load_weights": False, "mean": None}, "expected the mean and std"),
        ({"name": "csatv2"}, "which takes neither"),  # three channels only
    ],
    ids=str,
)
@pytest.mark.usefixtures("offline")
def test_what_cannot_be_had_is_refused_in_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as refusal:
        timm_network(**{"image_shape": (1, 28, 28), "num_classes": 5, "mean": [0.5], "std": [0.5]} | settings)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("listening", [True, False])
def test_without_a_network_it_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, publish: Callable[[str], Path], listening: bool
) -> None:
    """Nobody answers at the hub's address, or somebody who hangs up; the hub's own six attempts take two minutes."""
    for variable in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{port}")
        if listening:
            with local_files_if_unreachable() as host:
                assert host is None and not huggingface_hub.constants.HF_HUB_OFFLINE
            return
    start = time.monotonic()
    with pytest.raises(UserError, match=r"none of an earlier download, and no connection to 127\.0\.0\.1; check"):
        timm_network((1, 28, 28), 5, "test_resnet", pretrained=True, mean=[0.5], std=[0.5])
    assert time.monotonic() - start < 10 and not huggingface_hub.constants.HF_HUB_OFFLINE
    publish("test_resnet")  # weights that are here already need nobody
    timm_network((1, 28, 28), 5, "test_resnet", pretrained=True, mean=[0.5], std=[0.5])


def test_behind_a_proxy_the_hub_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    assert unreachable("https://nowhere.invalid") is None
    monkeypatch.delenv("https_proxy")
    for variable in ("HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)
    assert unreachable("https://nowhere.invalid") == "nowhere.invalid"


def test_one_line_starts_from_published_weights_and_keeps_what_is_frozen(
    publish: Callable[[str], Path],
    compose_config: Callable[..., Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its own size, mean and standard deviation are those of `test_pretrained_sees_what_timm_states`."""
    weights = torch.load(publish("test_resnet"), weights_only=True)
    cfg = compose_config(
        *(override for override in TINY if not override.startswith("model.net")),
        *("model=timm", "model.net.name=test_resnet", "model.net.pretrained=true"),
        "model.freeze=[network.conv1,network.bn1,network.layer1,network.layer2]",
        *("data.num_samples=60", "data.batch_size=16", "trainer.max_epochs=1", "logger=none"),
    )
    pipeline.train(cfg)
    state = torch.load(tmp_path / "run" / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    kept = {key: torch.equal(state[f"net.network.{key}"], value) for key, value in weights.items() if "fc" not in key}
    frozen = ("conv1", "bn1", "layer1", "layer2")
    assert all(same for key, same in kept.items() if key.startswith(frozen)), "statistics of BatchNorm too"
    trained = [key for key in kept if key.startswith("layer4") and key.endswith("weight")]
    assert trained and not any(kept[key] for key in trained)
    assert "resized to 160 x 160" in capsys.readouterr().out


def test_without_timm_one_line_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match="install it"):
        timm_network((1, 28, 28), 5, "resnet10t")
