"""Memory that runs out, of the machine or of a GPU: told in one line, whatever asked for it."""

from collections.abc import Iterator
from contextlib import contextmanager

from image_classifier.engine.errors import UserError

REFUSALS = ("can't allocate memory", "not enough memory", "out of memory")  # in a RuntimeError of torch


@contextmanager
def memory_told() -> Iterator[None]:
    """Tell that memory ran out; all other errors stay themselves.

    Raises:
        UserError: There was not enough.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
        first, *_ = str(error).splitlines() or [type(error).__name__]
        if isinstance(error, MemoryError) or any(words in str(error).lower() for words in REFUSALS):
            raise UserError(
                f"expected enough memory but found: {first}; try a smaller data.batch_size (predict.py: batch_size), "
                "smaller images, a smaller network, or data.in_memory=false"
            ) from error
        raise
