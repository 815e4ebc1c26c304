"""A trained network as a file that runs without this project: pixels in, probabilities out, normalisation inside."""

import importlib.util
import json
import logging
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from image_classifier.engine.errors import UserError
from image_classifier.engine.images.normalization import normalize

SUFFIXES = (".onnx", ".pt2")  # ONNX, and what torch.export writes
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
LARGEST_DIFFERENCE = 1e-3  # between the probabilities of the network and of its file; usual are 1e-7 to 1e-5


class PixelsToProbabilities(nn.Module):
    """A classifier behind its normalisation: (B, C, H, W) uint8 pixels to (B, K) float32 probabilities.

    Args:
        model: Maps (B, C, H, W) normalised images to (B, K) logits.
        mean: Per channel, in units of the full range (0 to 1).
        std: The same.
    """

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.model = model.float()
        self.mean = tuple(mean)
        self.std = tuple(std)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        return self.model(normalize(images, self.mean, self.std)).softmax(1)


def export_paths(output: str | None, ckpt_path: str) -> list[Path]:
    """The files to write.

    Args:
        output: A file whose suffix says the format, or one without: both formats; None: beside the checkpoint.
        ckpt_path: The checkpoint.

    Raises:
        UserError: The suffix is of another format, or ONNX is to be written and its packages are not installed.
    """
    path = Path(output) if output else Path(ckpt_path).with_suffix("")
    if path.is_dir() and output:
        path /= Path(ckpt_path).stem
    if path.suffix and path.suffix not in SUFFIXES and output:
        raise UserError(
            f"expected output to end with {' or '.join(SUFFIXES)} but found {path}; for example output=model.onnx, "
            "or output=model for both"
        )
    paths = [path] if path.suffix in SUFFIXES else [path.with_name(path.name + suffix) for suffix in SUFFIXES]
    missing = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if missing and any(path.suffix == ".onnx" for path in paths):
        raise UserError(
            f"expected the packages {', '.join(ONNX_PACKAGES)} but found no {', '.join(missing)}; install them: "
            f".venv/bin/python -m uv pip install {' '.join(ONNX_PACKAGES)}, or write torch's own format: "
            f"output={path.with_suffix('.pt2')}"
        )
    return paths


def export_metadata(recipe: Mapping[str, Any]) -> dict[str, str]:
    """What one must know to use the file, each value as JSON.

    Args:
        recipe: Of the checkpoint.
    """
    data = recipe["data"]
    facts = {
        "class_names": recipe["class_names"],
        "image_shape": recipe["image_shape"],  # channels, height, width
        "colors": "RGB" if recipe["image_shape"][0] == 3 else "grey",
        "fit": data.get("fit", "crop"),  # how pictures were brought to that shape
        "background": data.get("background", "white"),
        "mean": recipe["mean"],  # of the normalisation, which is inside
        "std": recipe["std"],
    }
    return {name: json.dumps(value, ensure_ascii=False) for name, value in facts.items()}


def first_images(batches: Iterable[Tensor], count: int) -> Tensor:
    """The first images of (B, C, H, W) uint8 batches, on the CPU.

    Raises:
        UserError: There are none.
    """
    found: list[Tensor] = []
    for batch in batches:
        found.append(batch.cpu())
        if sum(map(len, found)) >= count:
            break
    if not found:
        raise UserError("expected images to check the exported network with but found none; name some: input=PICTURES")
    return torch.cat(found)[:count]


def export_network(network: PixelsToProbabilities, images: Tensor, path: Path, metadata: Mapping[str, str]) -> str:
    """Write a network to a file, load it from there, and compare the two.

    Args:
        network: What is written, for any number of images at a time.
        images: (N, C, H, W) uint8, N >= 1; real ones, for noise makes most networks say the same.
        path: Its suffix says the format.
        metadata: Is written into the file.

    Returns:
        What was written and how the two compare, in words.

    Raises:
        UserError: The network cannot be written, or the file says something else; then there is no file.
    """
    write, load = (write_onnx, load_onnx) if path.suffix == ".onnx" else (write_pt2, load_pt2)
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        with quiet():
            try:
                # Two images, for with one their number would become fixed.
                write(network, images[:1].repeat(2, 1, 1, 1), staging, metadata)
            except Exception as error:  # tracing runs the network's own code under rules of its own
                reason = " ".join(re.sub(r"\x1b\[[\d;]*m", "", str(error)).split())[:300]  # torch paints its own
                raise UserError(
                    f"expected a network that can be written as {path.suffix} but found {type(error).__name__}: "
                    f"{reason}; choose the other format: output={path.with_suffix(other_suffix(path.suffix))}"
                ) from error
            difference, same = compare(network, load(staging), images, path)
        staging.replace(path)
    finally:
        staging.unlink(missing_ok=True)
    return (
        f"{path}: {path.stat().st_size / 2**20:.1f} MiB; on {len(images)} real images the largest difference of a "
        f"probability is {difference:.1e}, and {same} have the same class"
    )


def other_suffix(suffix: str) -> str:
    return next(other for other in SUFFIXES if other != suffix)


def write_onnx(network: nn.Module, example: Tensor, path: Path, metadata: Mapping[str, str]) -> None:
    made = torch.onnx.export(
        network,
        (example,),
        dynamo=True,
        dynamic_shapes=({0: "batch"},),
        external_data=False,
        input_names=["images"],
        output_names=["probabilities"],
        verbose=False,
    )
    assert made is not None
    made.model.metadata_props.update(metadata)
    made.save(path)


def load_onnx(path: Path) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["probabilities"], {"images": images.numpy()})[0])


def write_pt2(network: nn.Module, example: Tensor, path: Path, metadata: Mapping[str, str]) -> None:
    program = torch.export.export(network, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    content = json.dumps({name: json.loads(value) for name, value in metadata.items()}, ensure_ascii=False)
    torch.export.save(program, path, extra_files={"metadata.json": content})


def load_pt2(path: Path) -> Callable[[Tensor], Tensor]:
    return torch.export.load(path).module()


@torch.inference_mode()
def compare(network: nn.Module, loaded: Callable[[Tensor], Tensor], images: Tensor, path: Path) -> tuple[float, int]:
    """Let the network and its file classify the same images: one alone, the others together.

    Returns:
        The largest difference of a probability, and how many images have the same class.

    Raises:
        UserError: They differ by more than rounding.
    """
    groups = [group for group in (images[:1], images[1:]) if len(group)]
    expected = torch.cat([network(group) for group in groups])
    found = torch.cat([loaded(group) for group in groups])
    difference = float((found - expected).abs().max())
    if not difference <= LARGEST_DIFFERENCE:  # nor nan
        raise UserError(
            f"expected {path.name} to give the probabilities of the checkpoint within {LARGEST_DIFFERENCE:g} but found "
            f"a difference of {difference:.2g}; choose the other format: "
            f"output={path.with_suffix(other_suffix(path.suffix))}"
        )
    return difference, int((found.argmax(1) == expected.argmax(1)).sum())


@contextmanager
def quiet() -> Iterator[None]:
    """Without the notices of torch's exporters, which are for their developers."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)  # errors, too: what goes wrong is told in one line
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(before)
