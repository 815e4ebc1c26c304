"""What every network has to hold. A test of a new one inherits it: see docs/extending.md."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from torch import Tensor, nn

from image_classifier import pipeline
from image_classifier.engine.checkpoint import load_run
from image_classifier.engine.launch import assembly
from image_classifier.engine.project import CONFIG_DIR
from tiny import TINY, TINY_DATA, TINY_MODEL


def compose_run(
    run_dir: Path, *overrides: str, data: Sequence[str] = TINY_DATA, model: Sequence[str] = TINY_MODEL
) -> Any:
    """The configuration of a run of about a second on the given data, with further overrides."""
    others = [override for override in TINY if override not in (*TINY_DATA, *TINY_MODEL)]
    with initialize_config_dir(CONFIG_DIR):
        return compose("train", [*data, *model, *others, "logger=none", f"paths.run_dir={run_dir}", *overrides])


class NetworkTests:
    """Inherit, and say in `overrides` which network it is; make it small, so that a case takes milliseconds."""

    overrides: tuple[str, ...]

    def train(self, run_dir: Path, *overrides: str) -> Path:
        pipeline.train(compose_run(run_dir, "test=false", *overrides, model=self.overrides))
        return run_dir / "checkpoints" / "last.ckpt"

    @pytest.fixture
    def net(self, tmp_path: Path) -> nn.Module:
        torch.manual_seed(1)
        cfg = compose_run(tmp_path, model=self.overrides)
        net: nn.Module = assembly.make_model(cfg, assembly.make_datamodule(cfg)).net  # type: ignore[assignment]
        return net

    @pytest.fixture
    def batch(self) -> tuple[Tensor, Tensor]:
        return torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(2)), torch.arange(8) % 4

    def test_every_parameter_takes_part(self, net: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
        logits = net(batch[0])
        assert logits.shape == (8, 4)
        F.cross_entropy(logits, batch[1]).backward()
        for name, parameter in net.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name

    def test_an_image_alone_is_classified_as_in_a_batch(self, net: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
        with torch.no_grad():
            together = net.eval()(batch[0])
            alone = torch.cat([net(image[None]) for image in batch[0]])
        torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-4)

    def test_it_learns_a_batch_by_heart(self, net: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
        optimizer = torch.optim.AdamW(net.train().parameters(), lr=0.01)
        for _ in range(300):
            loss = F.cross_entropy(net(batch[0]), batch[1])
            if loss < 0.1:  # chance: log(4) = 1.39
                break
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert loss < 0.1

    def test_a_seed_repeats_and_the_checkpoint_alone_rebuilds_it(self, tmp_path: Path) -> None:
        first, second = (self.train(tmp_path / name) for name in ("first", "second"))
        weights, again = (torch.load(path, weights_only=True)["state_dict"] for path in (first, second))
        torch.testing.assert_close(again, weights, rtol=0, atol=0)
        model, _ = load_run(str(first))
        torch.testing.assert_close(dict(model.state_dict()), dict(weights), rtol=0, atol=0)

    def test_it_can_be_exported(self, net: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
        exported = torch.export.export(net.eval(), (batch[0],), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
        with torch.no_grad():
            torch.testing.assert_close(exported.module()(batch[0][:3]), net(batch[0][:3]))
