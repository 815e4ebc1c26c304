"""What the tests run in other processes. Imports no torch: such a process costs half a second, not ten."""

import os
import signal
import time

from image_classifier.engine.errors import UserError


def return_rank(argument: str) -> str:
    return f"{argument} {os.environ['RANK']} of {os.environ['WORLD_SIZE']}"


def fail(how: str) -> None:
    """Fail on rank 1, while rank 0 waits as in a collective that lost a partner."""
    if os.environ["RANK"] == "0":
        time.sleep(60)
    if how == "exit":
        os._exit(3)
    if how == "signal":
        os.kill(os.getpid(), signal.SIGKILL)
    raise UserError("a mistake") if how == "mistake" else ValueError("an error")
