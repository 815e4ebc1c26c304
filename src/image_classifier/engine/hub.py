"""Hugging Face's hub where there may be no network: left to itself, it asks again and again for two minutes."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit
from urllib.request import getproxies

CONNECT_TIMEOUT = 3.0  # seconds


@contextmanager
def local_files_if_unreachable() -> Iterator[str | None]:
    """Within, the hub serves what it downloaded earlier and asks nobody, if it cannot be reached.

    Yields:
        The host that cannot be reached, or None. Where a proxy is set, it alone knows; the hub is left to itself.
    """
    # HF_HUB_OFFLINE (huggingface_hub 1.0 to 2.4) is looked up at each request. Without it every request is made six
    # times, with growing pauses. tests/models/test_timm.py counts the seconds.
    from huggingface_hub import constants

    host = unreachable(constants.ENDPOINT)
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or host is not None
    try:
        yield host
    finally:
        constants.HF_HUB_OFFLINE = before


def unreachable(address: str) -> str | None:
    """The host of an address if nothing answers there; None also behind a proxy."""
    parts = urlsplit(address)
    if getproxies().keys() & {parts.scheme, "all"} or parts.hostname is None:
        return None
    port = parts.port or {"http": 80}.get(parts.scheme, 443)
    try:
        socket.create_connection((parts.hostname, port), timeout=CONNECT_TIMEOUT).close()
    except OSError:
        return parts.hostname
    return None
