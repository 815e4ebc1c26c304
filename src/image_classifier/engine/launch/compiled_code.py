"""Where `torch.compile` keeps its code. Imports nothing of torch, which asks for the place as it is imported."""

import os
from pathlib import Path

CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


def keep_compiled_code() -> None:
    """Keep compiled code in the user's cache, unless the variable of torch says where.

    By default it lies among temporary files: gone when the machine starts again, and where other users may write what
    is then run.
    """
    if os.environ.get(CACHE_VARIABLE):  # torch takes an empty one for the working directory
        return
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "torchinductor"
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # no home, or a read-only one
        return
    if os.access(cache, os.W_OK):
        os.environ[CACHE_VARIABLE] = str(cache)
