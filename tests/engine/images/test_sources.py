"""Where the files come from, when a source is there, damaged, stalled or absent. No test here needs a network."""

import gzip
import hashlib
import json
import os
import stat
import struct
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torchvision

from image_classifier.engine.errors import UserError
from image_classifier.engine.images import sources
from image_classifier.engine.images.sources import FILES, ensure_files, missing_files


def idx(*sizes: int) -> bytes:
    length = 1
    for size in sizes:
        length *= size
    return b"\x00\x00\x08" + bytes([len(sizes)]) + struct.pack(f">{len(sizes)}I", *sizes) + bytes(range(length))


CONTENTS = dict(zip(FILES, (idx(3, 4, 5), idx(3), idx(2, 4, 5), idx(2)), strict=True))
ARCHIVES = {f"{file}.gz": gzip.compress(content, mtime=0) for file, content in CONTENTS.items()}


class Mirrors(BaseHTTPRequestHandler):
    """Four mirrors on one server, by the first part of the path."""

    requests: list[str]
    release: threading.Event

    def do_GET(self) -> None:
        _, mirror, name = self.path.split("/")
        self.requests.append(self.path)
        content = ARCHIVES[name]
        if mirror == "absent":
            self.send_error(404)
            return
        if mirror == "stalled":
            self.release.wait(20)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if mirror == "damaged":
            content = content[:-9] + b"!" + content[-8:]
        self.wfile.write(content[:20] if mirror == "cut" else content)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Serves the made-up data set; the sums of torchvision and of this project are those of the made-up files."""
    Mirrors.requests, Mirrors.release = [], threading.Event()
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Mirrors)
    threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True).start()
    resources = [(name, hashlib.md5(content).hexdigest()) for name, content in ARCHIVES.items()]
    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "resources", resources)
    sums = {file: hashlib.sha256(content).hexdigest() for file, content in CONTENTS.items()}
    monkeypatch.setattr(sources, "FASHION_MNIST_SHA256", sums)
    monkeypatch.setattr(sources, "DOWNLOAD_TIMEOUT", 0.3)
    yield f"http://127.0.0.1:{httpd.server_port}"
    Mirrors.release.set()
    httpd.shutdown()
    httpd.server_close()


@pytest.fixture(autouse=True)
def no_apt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A PATH of its own, so that no test asks the machine's package manager."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path / "bin"


def use_mirrors(monkeypatch: pytest.MonkeyPatch, *mirrors: str) -> None:
    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "mirrors", [f"{mirror}/" for mirror in mirrors])


def raw_dir(tmp_path: Path) -> Path:
    return tmp_path / "data" / "FashionMNIST" / "raw"


def check_complete(directory: Path) -> None:
    """The four files, and nothing else but the lock."""
    assert {path.name for path in directory.iterdir()} == {*FILES, ".lock"}
    assert {file: (directory / file).read_bytes() for file in FILES} == CONTENTS


def test_files_that_are_there_are_not_fetched(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_mirrors(monkeypatch, f"{server}/good")
    raw_dir(tmp_path).mkdir(parents=True)
    for file, content in CONTENTS.items():
        (raw_dir(tmp_path) / file).write_bytes(content)
    ensure_files(raw_dir(tmp_path), "FashionMNIST")
    assert Mirrors.requests == []


def test_damage_after_a_look_is_seen_by_the_next(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checksum is not computed twice of the same file: one byte is another, the time of the change is not."""
    use_mirrors(monkeypatch, f"{server}/good")
    ensure_files(raw_dir(tmp_path), "FashionMNIST")
    path = raw_dir(tmp_path) / FILES[0]
    status = path.stat()
    path.write_bytes(CONTENTS[FILES[0]][:-1] + b"!")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert FILES[0] in missing_files(raw_dir(tmp_path), "FashionMNIST")


@pytest.mark.parametrize("first", ["absent", "damaged", "cut", "stalled"])
def test_next_mirror_is_tried(first: str, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_mirrors(monkeypatch, f"{server}/{first}", f"{server}/good")
    ensure_files(raw_dir(tmp_path), "FashionMNIST")
    check_complete(raw_dir(tmp_path))
    assert Mirrors.requests[:2] == [f"/{first}/{FILES[0]}.gz", f"/good/{FILES[0]}.gz"]


@pytest.mark.parametrize("damage", ["missing", "cut", "changed"])
def test_damaged_files_are_replaced(damage: str, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_mirrors(monkeypatch, f"{server}/good")
    directory = raw_dir(tmp_path)
    ensure_files(directory, "FashionMNIST")
    path = directory / FILES[2]
    if damage == "missing":
        path.unlink()
    else:
        content = CONTENTS[FILES[2]]
        path.write_bytes(content[:-3] if damage == "cut" else content[:-1] + b"!")
    assert FILES[2] in missing_files(directory, "FashionMNIST")
    (directory / ".fetching-killed").mkdir()
    ensure_files(directory, "FashionMNIST")
    check_complete(directory)


def test_content_of_a_data_set_without_sums_is_checked_by_its_header(tmp_path: Path) -> None:
    for file, content in CONTENTS.items():
        (tmp_path / file).write_bytes(content)
    assert missing_files(tmp_path, "MNIST") == ""
    for content in (b"", b"<html>", CONTENTS[FILES[0]][:-1], CONTENTS[FILES[0]][:6]):
        (tmp_path / FILES[0]).write_bytes(content)
        assert "damaged" in missing_files(tmp_path, "MNIST")


def test_failure_names_each_source_and_leaves_nothing(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_mirrors(monkeypatch, f"{server}/damaged", f"{server}/absent", f"{server}/stalled")
    with pytest.raises(UserError) as caught:
        ensure_files(raw_dir(tmp_path), "FashionMNIST")
    message = str(caught.value)
    for part in (
        f"files already in {raw_dir(tmp_path)}: no file {FILES[0]}",
        f"{server}/damaged/: the download is damaged",
        f"{server}/absent/: HTTP Error 404",
        f"{server}/stalled/: timed out",
        "Debian's package dataset-fashion-mnist: apt-get is not on this machine",
        f"Put the files {', '.join(FILES)} (uncompressed) into {raw_dir(tmp_path)}",
        "data=synthetic",
    ):
        assert part in message
    assert [path.name for path in raw_dir(tmp_path).iterdir()] == [".lock"]


def test_last_file_missing_leaves_nothing(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_mirrors(monkeypatch, f"{server}/good")
    resources = torchvision.datasets.FashionMNIST.resources
    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "resources", [*resources[:3], (resources[3][0], "0" * 32)])
    with pytest.raises(UserError, match="its MD5 differs"):
        ensure_files(raw_dir(tmp_path), "FashionMNIST")
    assert [path.name for path in raw_dir(tmp_path).iterdir()] == [".lock"]


def test_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"expected a writable data directory .* data\.root=DIR"):
        ensure_files(tmp_path / "file" / "raw", "FashionMNIST")


FETCH = """
import json, sys, types
from pathlib import Path
mirror, resources, sums, directory = json.loads(sys.argv[1])
dataset = types.SimpleNamespace(mirrors=[mirror], resources=resources)
sys.modules["torchvision"] = types.SimpleNamespace(datasets=types.SimpleNamespace(FashionMNIST=dataset))
from image_classifier.engine.images import sources
sources.FASHION_MNIST_SHA256 = sums
sources.ensure_files(Path(directory), "FashionMNIST")
"""


def test_processes_that_start_together_fetch_once(server: str, tmp_path: Path) -> None:
    resources = torchvision.datasets.FashionMNIST.resources
    arguments = json.dumps([f"{server}/good/", resources, sources.FASHION_MNIST_SHA256, str(raw_dir(tmp_path))])
    processes = [subprocess.Popen([sys.executable, "-c", FETCH, arguments], stderr=subprocess.PIPE) for _ in range(4)]
    assert [process.communicate(timeout=60)[1] for process in processes] == [b"", b"", b"", b""]
    assert len(Mirrors.requests) == len(FILES)
    check_complete(raw_dir(tmp_path))


def write_script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{text}")
    path.chmod(path.stat().st_mode | stat.S_IEXEC)


@pytest.fixture
def apt(no_apt: Path, tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand-ins for apt-get, which knows the package after an update only, and dpkg-deb. Returns the log of calls."""
    use_mirrors(monkeypatch, f"{server}/absent")
    with tarfile.open(tmp_path / "package.tar", "w") as package:
        for name, content in ARCHIVES.items():
            (tmp_path / name).write_bytes(content)
            package.add(tmp_path / name, f"usr/share/datasets/fashion-mnist/{name}")
    log = tmp_path / "apt.log"
    write_script(
        no_apt / "apt-get",
        f"""echo "$1" >> {log}
[ "$1" = update ] && touch {tmp_path}/lists && exit 0
[ -e {tmp_path}/lists ] || {{ echo "E: Unable to locate package $2" >&2; exit 100; }}
cp {tmp_path}/package.tar ./$2_1.0_all.deb
""",
    )
    write_script(no_apt / "dpkg-deb", 'mkdir -p "$3" && tar -xf "$2" -C "$3"')
    return log


def test_debian_package_without_root(apt: Path, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lists").touch()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    ensure_files(raw_dir(tmp_path), "FashionMNIST")
    check_complete(raw_dir(tmp_path))
    assert apt.read_text().split() == ["download"]


def test_root_refreshes_the_package_lists(apt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    ensure_files(raw_dir(tmp_path), "FashionMNIST")
    check_complete(raw_dir(tmp_path))
    assert apt.read_text().split() == ["download", "update", "download"]


def test_others_are_told_what_apt_said(apt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(UserError, match="E: Unable to locate package dataset-fashion-mnist"):
        ensure_files(raw_dir(tmp_path), "FashionMNIST")
    assert apt.read_text().split() == ["download"]
