"""A training step in bf16 autocast against float32: where `trainer.precision=auto` draws the line.

python benchmarks/precision.py

One thread, whose CPU time counts, so that other work of the machine hits both; blocks of steps of the two take turns.
"""

from common import Row, write_results

# isort: split
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from image_classifier.engine.training.precision import fastest_precision
from image_classifier.models.classifier import Classifier
from image_classifier.models.cnn import CNN
from image_classifier.models.mlp import MLP
from image_classifier.models.wide_resnet import WideResNet

SHAPE = (1, 28, 28)
ROUNDS = 12
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp 784-32-10": (lambda: MLP(SHAPE, 10, hidden_sizes=[32]), (32, 128, 512, 2048)),
    "mlp 784-128-10": (lambda: MLP(SHAPE, 10, hidden_sizes=[128]), (32, 128, 512)),
    "mlp 784-512-256-10": (lambda: MLP(SHAPE, 10), (8, 32, 128, 512)),
    "mlp 784-2048-2048-10": (lambda: MLP(SHAPE, 10, hidden_sizes=[2048, 2048]), (8, 32, 128)),
    "cnn, channels 4, 8, 8": (lambda: CNN(SHAPE, 10, channels=[4, 8, 8], hidden_size=16), (8, 32, 128)),
    "cnn": (lambda: CNN(SHAPE, 10), (4, 8, 32, 128)),
    "wide_resnet 10-1": (lambda: WideResNet(SHAPE, 10, depth=10, width=1), (4, 16, 64)),
}


class Steps:
    """Training steps of one network in one precision."""

    def __init__(self, net: nn.Module, batch_size: int, bf16: bool) -> None:
        order = torch.channels_last if any(isinstance(module, nn.Conv2d) for module in net.modules()) else None
        order = order or torch.contiguous_format
        self.net = net.to(memory_format=order)
        self.images = torch.randn(batch_size, *SHAPE).contiguous(memory_format=order)
        self.labels = torch.arange(batch_size) % 10
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=1e-3, fused=True)
        self.bf16 = bf16

    def milliseconds(self, count: int) -> float:
        start = time.thread_time()
        for _ in range(count):
            with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
                loss = F.cross_entropy(self.net(self.images), self.labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        return (time.thread_time() - start) / count * 1e3


def row(name: str, make: Callable[[], nn.Module], batch_size: int) -> Row:
    sides = [Steps(make(), batch_size, bf16) for bf16 in (False, True)]
    count = max(1, min(50, round(50 / sides[0].milliseconds(2))))  # blocks of about 50 ms
    rounds = [[side.milliseconds(count) for side in sides] for _ in range(ROUNDS + 2)][2:]
    float32, bf16 = (statistics.median(column) for column in zip(*rounds, strict=True))
    model = Classifier(make())
    model.example_input_array = torch.zeros(2, *SHAPE)
    chosen = fastest_precision(model, batch_size, "cpu")
    note = f"float32 {float32:.3f} ms, bf16 {bf16:.3f} ms; auto takes {chosen}"
    question = f"step of {name} at batch {batch_size}: bf16 / float32"
    return Row(
        question, statistics.median(second / first for first, second in rounds), "x", None, samples=ROUNDS, note=note
    )


def main() -> list[Row]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rows = [row(name, make, size) for name, (make, sizes) in CASES.items() for size in sizes]
    torch.set_num_threads(threads)
    lost = [max(1.0, r.measured if "bf16-mixed" in r.note else 1 / r.measured) for r in rows if r.measured]
    question = "step in the precision that auto takes / in the faster one, the worst case of the table"
    rows.append(Row(question, max(lost), "x", 1.1, samples=len(lost)))
    write_results("precision", rows)
    return rows


if __name__ == "__main__":
    main()
