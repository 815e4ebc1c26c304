"""Members of tar files as tarfile finds them, whatever wrote the file; and damage is told, not passed over."""

import io
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from image_classifier.engine.images.tar import members, members_by_tarfile

LONG = "folder/" + "x" * 140 + "/" + "é" * 40 + ".png"


def write(path: Path, form: int, **fields: Any) -> Path:
    with tarfile.open(path, "w", format=form) as file:
        for name, content in (("a.png", b"1" * 700), ("folder/b.png", b""), (LONG, b"2" * 512), ("é.cls", b"3")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            for field, value in fields.items():
                setattr(member, field, value)
            file.addfile(member, io.BytesIO(content))
        for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
            member = tarfile.TarInfo(f"kind_{kind.decode()}")
            member.type, member.linkname = kind, "a.png"
            file.addfile(member)
    return path


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("fields", [{}, {"mtime": 1.5}, {"uname": "ü" * 20, "mode": 0o777}])
def test_members_are_those_of_tarfile(tmp_path: Path, form: int, fields: dict[str, Any]) -> None:
    if form == tarfile.USTAR_FORMAT and "mtime" in fields:
        fields = {"mtime": 1}  # it has no room for fractions
    path = write(tmp_path / "0.tar", form, **fields)
    found = list(members(path))
    assert found == list(members_by_tarfile(path)) and len(found) == 8
    assert [member.name for member in found if member.is_file] == ["a.png", "folder/b.png", LONG, "é.cls"]


def test_members_of_the_tar_command(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for number in range(30):
        (tmp_path / "pictures" / f"{'n' * number * 8}{number}.png").write_bytes(bytes(number * 50))
    for form in ("v7", "oldgnu", "gnu", "ustar", "posix"):
        names = "pictures" if form in ("gnu", "posix") else "pictures/0.png"  # the others cannot name the long ones
        done = subprocess.run(["tar", f"--format={form}", "-cf", "0.tar", names], cwd=tmp_path)
        assert done.returncode == 0
        found = list(members(tmp_path / "0.tar"))
        assert found == list(members_by_tarfile(tmp_path / "0.tar"))
        assert len(found) == (31 if names == "pictures" else 1)


@pytest.mark.parametrize("cut", [0, 100, 511, 700, 1100, 1600])
def test_a_file_that_was_cut_is_told(tmp_path: Path, cut: int) -> None:
    path = write(tmp_path / "0.tar", tarfile.USTAR_FORMAT)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(tarfile.ReadError):
        list(members(path))


@pytest.mark.parametrize("at", [3, 130, 150, 1536 + 5])
def test_a_damaged_header_is_told(tmp_path: Path, at: int) -> None:
    """Python's tarfile takes one behind the first member for the end of the file."""
    path = write(tmp_path / "0.tar", tarfile.USTAR_FORMAT)
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    with pytest.raises(tarfile.ReadError):
        list(members(path))
