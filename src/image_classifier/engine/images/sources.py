"""Where the IDX data sets (Fashion-MNIST, MNIST, KMNIST) come from: disk, torchvision's mirrors, Debian's package."""

import gzip
import hashlib
import http.client
import os
import shutil
import struct
import subprocess
import tempfile
import urllib.request
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from filelock import FileLock

from image_classifier.engine.errors import UserError
from image_classifier.engine.terminal import say

FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)

# sha256 of the uncompressed files: mirrors and Debian compress the same content differently.
FASHION_MNIST_SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}

DEBIAN_PACKAGES = {"FashionMNIST": "dataset-fashion-mnist"}
DOWNLOAD_TIMEOUT = 20.0  # seconds without an answer before the next source is tried


def ensure_files(raw_dir: Path, dataset: str) -> None:
    """Make sure that the four verified IDX files of a data set lie in a directory.

    Args:
        raw_dir: Directory of the uncompressed files, `<root>/<dataset>/raw` as torchvision lays them out.
        dataset: Name of torchvision's class: "FashionMNIST", "MNIST" or "KMNIST".

    Raises:
        UserError: No source has the files; names each source tried and why it failed.
    """
    if not missing_files(raw_dir, dataset):
        return
    try:
        raw_dir.mkdir(parents=True, exist_ok=True)
        if not os.access(raw_dir, os.W_OK):
            raise OSError("it is read-only")
    except OSError as error:
        raise UserError(
            f"expected a writable data directory but found {raw_dir}: {error}; choose another: data.root=DIR"
        ) from None
    failures = [f"files already in {raw_dir}: {missing_files(raw_dir, dataset)}"]
    sources: list[tuple[str, Callable[[Path, str], None]]] = [("torchvision's mirrors", fetch_from_mirrors)]
    if dataset in DEBIAN_PACKAGES:
        sources.append((f"Debian's package {DEBIAN_PACKAGES[dataset]}", fetch_from_debian))
    with FileLock(raw_dir / ".lock"):  # processes that start together wait for the first one's copy
        if not missing_files(raw_dir, dataset):
            return
        for left_by_a_killed_process in raw_dir.glob(".fetching-*"):
            shutil.rmtree(left_by_a_killed_process, ignore_errors=True)
        for name, fetch in sources:
            say(f"Getting {dataset} from {name} ...")
            try:
                with tempfile.TemporaryDirectory(dir=raw_dir, prefix=".fetching-") as staging:
                    fetch(Path(staging), dataset)
                    if problem := missing_files(Path(staging), dataset):
                        raise OSError(problem)
                    for file in FILES:
                        (Path(staging) / file).replace(raw_dir / file)
                return
            except (OSError, subprocess.SubprocessError) as error:
                failures.append(f"{name}: {error}")
    raise UserError(
        f"could not get {dataset}. Tried: "
        + "; ".join(" ".join(failure.split()) for failure in failures)
        + f". Put the files {', '.join(FILES)} (uncompressed) into {raw_dir} by hand, "
        "or train on generated images: data=synthetic"
    )


def missing_files(directory: Path, dataset: str) -> str:
    """What is wrong with the files in a directory, in words; empty when all four are there and intact."""
    checksums = FASHION_MNIST_SHA256 if dataset == "FashionMNIST" else {}
    for file in FILES:
        path = directory / file
        if not path.is_file():
            return f"no file {file}"
        if file in checksums and sha256(path) != checksums[file]:
            return f"{file} is damaged (its sha256 differs)"
        if not is_complete_idx(path):
            return f"{file} is damaged (its length does not fit its header)"
    return ""


def sha256(path: Path) -> str:
    """The checksum of a file, computed once for as long as nobody writes to it: each job of a sweep asks twice."""
    status = path.stat()
    return digest(path, (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns))


@lru_cache(maxsize=16)
def digest(path: Path, version: tuple[int, ...]) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_complete_idx(path: Path) -> bool:
    """Whether an IDX file of bytes is as long as its header says (http://yann.lecun.com/exdb/mnist)."""
    with path.open("rb") as file:
        header = file.read(4)
        if len(header) < 4 or header[:3] != b"\x00\x00\x08":
            return False
        sizes = file.read(4 * header[3])
    if len(sizes) < 4 * header[3]:
        return False
    length = 1
    for size in struct.unpack(f">{header[3]}I", sizes):
        length *= size
    return path.stat().st_size == 4 + len(sizes) + length


def fetch_from_mirrors(staging: Path, dataset: str) -> None:
    """Download from the mirrors that torchvision knows, checking its MD5 sums of the compressed files."""
    import torchvision

    source = getattr(torchvision.datasets, dataset)
    for archive, md5 in source.resources:
        failures = []
        for mirror in source.mirrors:
            try:
                with urllib.request.urlopen(f"{mirror}{archive}", timeout=DOWNLOAD_TIMEOUT) as answer:
                    content = answer.read()
                if hashlib.md5(content).hexdigest() != md5:
                    raise OSError("the download is damaged (its MD5 differs)")
                (staging / archive.removesuffix(".gz")).write_bytes(gzip.decompress(content))
                break
            except (OSError, EOFError, http.client.HTTPException) as error:
                failures.append(f"{mirror}: {error}")
        else:
            raise OSError("; ".join(failures))


def fetch_from_debian(staging: Path, dataset: str) -> None:
    """Download and unpack Debian's package without installing it; needs root only to refresh old package lists."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise OSError("apt-get is not on this machine")
    package = DEBIAN_PACKAGES[dataset]
    try:
        run("apt-get", "download", package, cwd=staging)
    except OSError:
        if os.geteuid() != 0:
            raise
        run("apt-get", "update", cwd=staging)
        run("apt-get", "download", package, cwd=staging)
    archives = list(staging.glob("*.deb"))
    if not archives:
        raise OSError(f"apt-get left no {package}*.deb")
    run("dpkg-deb", "-x", archives[0].name, "unpacked", cwd=staging)
    for file in FILES:
        found = next((staging / "unpacked").rglob(f"{file}.gz"), None)
        if found is None:
            raise OSError(f"{archives[0].name} holds no {file}.gz")
        with gzip.open(found) as compressed, (staging / file).open("wb") as plain:
            shutil.copyfileobj(compressed, plain)


def run(*command: str, cwd: Path) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        words = (done.stderr or done.stdout).strip().splitlines()
        raise OSError(f"`{' '.join(command)}` failed: {words[-1] if words else done.returncode}")
