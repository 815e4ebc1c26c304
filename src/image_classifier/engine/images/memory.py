"""How much memory is left for images, in a container too."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")


def free_memory(root: Path = Path("/")) -> int:
    """Bytes of memory that can be had without swapping, within the container's limit.

    Args:
        root: Where the file system starts.

    Returns:
        Where only the total is known (no Linux), half of it.
    """
    meminfo = root / "proc" / "meminfo"
    if not meminfo.exists():
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    lines = dict(line.split(":") for line in meminfo.read_text().splitlines())
    available = int(lines["MemAvailable"].split()[0]) * 1024
    return max(0, min([available, *cgroup_room(root)]))


def cgroup_room(root: Path) -> Iterator[int]:
    """Bytes that each memory limit on this process leaves: of its control group and all parents, version 2 and 1.

    A container may see its own group at the mount point, whatever path /proc tells: that is the last parent.
    """
    membership = root / "proc" / "self" / "cgroup"
    for line in membership.read_text().splitlines() if membership.exists() else ():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            mount, limit, usage, cache = "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            mount, limit, usage = "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            cache = "total_inactive_file"
        else:
            continue
        own = root / mount / path.lstrip("/")
        for group in (own, *own.parents):
            if not group.is_relative_to(root / mount):
                break
            try:
                room = int((group / limit).read_text()) - int((group / usage).read_text())
            except (OSError, ValueError):  # not visible from here, or "max"
                continue
            yield room + reclaimable(group / "memory.stat", cache)


def reclaimable(statistics: Path, key: str) -> int:
    """Bytes of a control group's usage that are copies of files, which the kernel drops when it needs room."""
    try:
        return int(dict(line.split() for line in statistics.read_text().splitlines())[key])
    except (OSError, ValueError, KeyError):
        return 0


def free_shared_memory() -> int | None:
    """Bytes through which worker processes can hand over batches; None where nothing limits them."""
    return shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.is_dir() else None
