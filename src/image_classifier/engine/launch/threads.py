"""How the threads of a processor wait for each other. Imports nothing, for it must come before torch."""

import os

# What a user may have said about it; KMP_* is read by Intel's OpenMP, the others by GNU's, which torch brings on Linux.
WAITING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME")
SPINS = 2000  # about 50 microseconds; the library takes 300,000. With 5,000 two trainings already wait for each other


def settle_waiting() -> None:
    """Let threads that wait give the processor up soon, unless the user has said how they wait.

    OpenMP's threads meet many times in a step. By default the first ones there keep their processors busy for
    milliseconds, and when the others' are taken by another training it is that training that is kept waiting.
    Where nothing else runs, a thread that slept is woken a little later than one that kept looking.

    The environment is read when the library is loaded, and inherited by the processes that are started later.
    """
    if not any(os.environ.get(name) for name in WAITING):
        os.environ["GOMP_SPINCOUNT"] = str(SPINS)
