"""Disks that are full, read-only or gone: told in one line, whatever was being written."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from image_classifier.engine.errors import UserError

DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO}
PLACE = {
    errno.ENOENT,
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
    errno.EEXIST,
}  # only within the run directory
LEAST = 2**20  # bytes that a run writes before it trains


@contextmanager
def writing_to(directory: Path, output: Path | None = None) -> Iterator[None]:
    """Tell an error of the disk that a run writes to in one line; all other errors stay themselves.

    Args:
        directory: Of the run.
        output: A file that is written elsewhere.

    Raises:
        UserError: The disk is full, read-only or gone.
    """
    try:
        yield
    except OSError as error:
        path = Path(error.filename) if isinstance(error.filename, str) else directory
        ours = path.is_relative_to(directory) or (output is not None and output.is_relative_to(path))
        if error.errno in DISK or (error.errno in PLACE and error.filename and ours):
            raise UserError(
                f"expected {path} to be written but found: {error.strerror}; make room or choose another disk with "
                f"hydra.run.dir=DIR{how_to_go_on(directory)}"
            ) from error
        raise


def how_to_go_on(directory: Path) -> str:
    if (directory / "checkpoints" / "last.ckpt").is_file():
        return f"; the checkpoints so far are whole: resume={directory}"
    return ""


def require_room(directory: Path, needed: int, what: str) -> None:
    """Refuse to start what could not be written.

    Args:
        directory: Where it will be written; it exists.
        needed: Bytes.
        what: In words.

    Raises:
        UserError: There is less room.
    """
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise UserError(
            f"expected room for {what} ({size(needed)}) in {directory} but found {size(free)}; make room, or choose "
            "another disk: hydra.run.dir=DIR"
        )


def size(count: int) -> str:
    """A number of bytes for people."""
    value = float(count)
    for unit in ("bytes", "KB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"
