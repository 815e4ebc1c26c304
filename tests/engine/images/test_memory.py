"""Free memory inside containers, from file trees like those of the kernel."""

from pathlib import Path

import pytest

from image_classifier.engine.images.memory import free_memory, free_shared_memory

MIB = 2**20
NO_LIMIT_V1 = 9223372036854771712


def tree(root: Path, membership: str, files: dict[str, str]) -> Path:
    files = {"proc/meminfo": f"MemTotal: {8000 * 1024} kB\nMemAvailable: {4000 * 1024} kB\n"} | files
    if membership:
        files["proc/self/cgroup"] = membership
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


def group(path: str, limit: int | str, usage: int, cache: int | None = None, version: int = 2) -> dict[str, str]:
    folder = f"sys/fs/cgroup{'/memory' if version == 1 else ''}/{path}".rstrip("/")
    names = ("memory.max", "memory.current", "inactive_file")
    if version == 1:
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    files = {f"{folder}/{names[0]}": f"{limit}\n", f"{folder}/{names[1]}": f"{usage}\n"}
    return files if cache is None else files | {f"{folder}/memory.stat": f"anon 5\n{names[2]} {cache}\nshmem 0\n"}


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("", {}, 4000),
        ("0::/\n", {}, 4000),
        ("0::/\n", group("", "max", 10), 4000),
        ("0::/\n", group("", 1000 * MIB, 400 * MIB), 600),  # a container that sees its own group as the root
        ("0::/\n", group("", 1000 * MIB, 900 * MIB, cache=700 * MIB), 800),  # copies of files can be dropped
        ("0::/\n", group("", 9000 * MIB, 0), 4000),  # more than the machine has
        ("0::/\n", group("", 100 * MIB, 200 * MIB), 0),
        ("0::/a/b\n", group("a/b", 1000 * MIB, 300 * MIB) | group("a", "max", 0), 700),
        ("0::/a/b\n", group("a/b", "max", 0) | group("a", 1000 * MIB, 900 * MIB), 100),  # the parent's limit
        ("0::/a/b\n", group("a/b", 1000 * MIB, 0) | group("a", 3000 * MIB, 2900 * MIB), 100),
        ("0::/docker/4f2a\n", group("", 500 * MIB, 100 * MIB), 400),  # a path outside what the container sees
        ("0::/../4f2a\n", group("", 500 * MIB, 100 * MIB), 400),
        ("0::/a:b\n", group("a:b", 500 * MIB, 100 * MIB), 400),
        ("4:memory:/slurm/job\n0::/\n", group("slurm/job", 500 * MIB, 100 * MIB, version=1), 400),
        ("4:cpu,memory:/j\n", group("j", 500 * MIB, 400 * MIB, cache=100 * MIB, version=1), 200),
        ("4:memory:/j\n", group("j", NO_LIMIT_V1, 400 * MIB, version=1), 4000),
        ("4:memory:/j\n", group("j", NO_LIMIT_V1, 0, version=1) | group("", 500 * MIB, 0, version=1), 500),
        ("4:cpu:/j\n", group("j", 500 * MIB, 0, version=1), 4000),
    ],
)
def test_limits_of_containers_count(tmp_path: Path, membership: str, files: dict[str, str], expected: int) -> None:
    assert free_memory(tree(tmp_path, membership, files)) == expected * MIB


def test_this_machine_has_memory() -> None:
    assert 0 < free_memory() < 2**50
    shared = free_shared_memory()
    assert shared is None or 0 <= shared < 2**50
