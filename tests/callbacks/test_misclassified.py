from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from image_classifier.callbacks.misclassified import Misclassified, thumbnails
from image_classifier.engine.images.normalization import normalize, to_pixels


def random_results(num_classes: int, samples: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Whole-number logits, and targets of which many are wrong."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.rand(samples, num_classes, generator=generator).argsort(1)
    logits = (logits * 12 / num_classes).long() + torch.randint(0, 4, (samples, num_classes), generator=generator)
    targets = torch.randint(0, min(num_classes, 6), (samples,), generator=generator)
    return logits, targets


def worst_mistakes(logits: Tensor, targets: Tensor, pairs: int, per_pair: int) -> list[tuple[int, int, list[float]]]:
    """By hand: true class, predicted class and the highest losses of the most frequent pairs."""
    losses = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none").tolist()
    mistakes = defaultdict(list)
    for true, predicted, loss in zip(targets.tolist(), logits.argmax(1).tolist(), losses, strict=True):
        if true != predicted:
            mistakes[true, predicted].append(loss)
    ranking = sorted(mistakes, key=lambda pair: (-len(mistakes[pair]), pair))[:pairs]
    return [(*pair, sorted(mistakes[pair], reverse=True)[:per_pair]) for pair in ranking]


def gallery_of(callback: Misclassified, num_classes: int) -> list[tuple[int, int, list[float]]]:
    shown = callback.most_frequent()
    groups = defaultdict(list)
    for pair, loss in zip(shown.pairs.tolist(), shown.losses.tolist(), strict=True):
        groups[divmod(pair, num_classes)].append(loss)
    return [(*pair, losses) for pair, losses in groups.items()]


@pytest.mark.parametrize("batch_size", [7, 1000])
@pytest.mark.parametrize("num_classes", [2, 10, 100])
def test_gallery_shows_the_highest_losses_of_the_most_confused_pairs(
    run_test: Callable, num_classes: int, batch_size: int
) -> None:
    logits, targets = random_results(num_classes, 800)
    callback = Misclassified(pairs=4, per_pair=3, capacity=10_000)
    run_test(logits, targets, callback, batch_size=batch_size)
    expected = worst_mistakes(logits, targets, pairs=4, per_pair=3)
    shown = gallery_of(callback, num_classes)
    assert [pair[:2] for pair in shown] == [pair[:2] for pair in expected]
    for (*_, losses), (*_, expected_losses) in zip(shown, expected, strict=True):
        assert losses == pytest.approx(expected_losses, rel=1e-5)


def test_images_and_confidences_are_those_of_the_mistakes(run_test: Callable) -> None:
    logits, targets = random_results(5, 300)
    callback = Misclassified()
    run_test(logits, targets, callback)
    shown = callback.most_frequent()
    pixels = shown.images[:, 0, 0].float()  # each image holds its logits
    assert torch.equal(pixels.argmax(1), shown.pairs % 5)
    torch.testing.assert_close(pixels.softmax(1).amax(1), shown.confidences)
    torch.testing.assert_close(-pixels.log_softmax(1)[torch.arange(len(pixels)), shown.pairs // 5], shown.losses)


def test_memory_does_not_grow_with_classes_or_samples(run_test: Callable, tmp_path: Path) -> None:
    logits, targets = random_results(1000, 1500)
    most = 0

    class Watch(Misclassified):
        def merge(self, groups):  # type: ignore[no-untyped-def]
            nonlocal most
            super().merge(groups)
            most = max(most, len(self.candidates.images))  # type: ignore[union-attr]

    callback = Watch(capacity=50)
    run_test(logits, targets, callback)
    assert most == 50
    assert list((tmp_path / "images" / "misclassified").glob("test_step_*.png"))


def test_ignored_and_right_samples_are_no_mistakes(run_test: Callable, tmp_path: Path) -> None:
    logits = torch.tensor([[9, 0, 0], [0, 9, 0], [9, 0, 0]])
    run_test(logits, torch.tensor([0, 1, 2]), Misclassified(), ignore_index=2)
    assert not (tmp_path / "images").exists()


def test_a_run_without_a_logger_finds_the_gallery_in_its_directory(run_test: Callable, tmp_path: Path) -> None:
    names = ["$x$ & <b>", "a very long name of a class that would not fit above a picture", "line\nbreak", "ß/ü"]
    run_test(*random_results(4, 200), Misclassified(), class_names=names)
    (path,) = (tmp_path / "images" / "misclassified").glob("test_step_*.png")
    picture = np.asarray(Image.open(path))
    assert picture.shape[0] > 500
    assert picture.std() > 20


def test_processes_put_their_mistakes_together(run_test: Callable, tmp_path: Path) -> None:
    class Save(Misclassified):
        def finish(self, stage, trainer, pl_module):  # type: ignore[no-untyped-def]
            super().finish(stage, trainer, pl_module)
            torch.save(gallery_of(self, 4), tmp_path / f"rank_{trainer.global_rank}.pt")

    logits, targets = random_results(4, 301)
    callback = Save(pairs=3, per_pair=4)
    run_test(logits, targets, callback, devices=2, strategy="ddp_fork")
    for rank in range(2):
        shown = torch.load(tmp_path / f"rank_{rank}.pt", weights_only=True)
        expected = worst_mistakes(logits, targets, pairs=3, per_pair=4)
        assert [pair[:2] for pair in shown] == [pair[:2] for pair in expected]
        assert [pair[2] for pair in shown] == [pytest.approx(pair[2], rel=1e-5) for pair in expected]
    assert [path.name for path in (tmp_path / "images" / "misclassified").iterdir()] == ["test_step_0.png"]


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_come_back_from_the_normalised_image(channels: int) -> None:
    images = torch.arange(256, dtype=torch.uint8).repeat(2, channels, 1, 1)
    mean, std = [0.286, 0.5, 0.41][:channels], [0.353, 0.2, 0.27][:channels]
    assert torch.equal(to_pixels(normalize(images, mean, std), mean, std), images)


@pytest.mark.parametrize(
    ("size", "expected"), [((28, 28), (28, 28)), ((256, 512), (64, 128)), ((1000, 3), (128, 1)), ((129, 64), (128, 63))]
)
def test_large_images_are_kept_small(size: tuple[int, int], expected: tuple[int, int]) -> None:
    images = torch.full((2, 3, *size), 77, dtype=torch.uint8)
    small = thumbnails(images)
    assert small.shape == (2, 3, *expected)
    assert (small == 77).all()
