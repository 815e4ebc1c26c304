"""Create .venv and install a hash-pinned lock into it: `python3 scripts/setup.py requirements.lock`.

Needs only the standard library. Does nothing when the lock is already installed; an interrupted run is
repaired by running it again, because the stamp is written last.
"""

import hashlib
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
STAMP = VENV / "installed-locks.txt"  # one line per lock whose packages are all installed
DEVELOPMENT_LOCK = "requirements-dev.lock"  # a superset of requirements.lock


def fingerprint(lock: str) -> str:
    """Name and content hash of a lock, together with the package metadata that the editable install copies."""
    content = (ROOT / lock).read_bytes() + (ROOT / "pyproject.toml").read_bytes()
    return f"{lock} {hashlib.sha256(content).hexdigest()}"


def pinned_requirement(lock: str, package: str) -> str:
    """The lines of `lock` that pin `package` and its hashes."""
    found = re.search(rf"^{package}==.*?(?=^\S|\Z)", (ROOT / lock).read_text(), re.MULTILINE | re.DOTALL)
    if found is None:
        raise SystemExit(f"error: {lock} does not pin {package}; run `make lock`")
    return found.group()


def create_venv() -> None:
    if sys.version_info < (3, 11):
        raise SystemExit(
            f"error: expected Python >= 3.11 but found {sys.version.split()[0]}; "
            "install a newer one and name it: make setup PYTHON=python3.12"
        )
    try:
        venv.create(VENV, with_pip=True, clear=True)
    except subprocess.CalledProcessError:
        raise SystemExit(
            "error: this Python cannot create virtual environments with pip; "
            "on Debian or Ubuntu: apt-get install python3-venv"
        ) from None


def run(*command: str) -> None:
    if (code := subprocess.run([str(PYTHON), "-m", *command], cwd=ROOT).returncode) != 0:
        raise SystemExit(f"error: `{' '.join(command)}` failed with status {code}; run the same make target again")


def works(*command: str) -> bool:
    return PYTHON.exists() and subprocess.run([PYTHON, *command], capture_output=True).returncode == 0


def main(lock: str) -> None:
    installed = STAMP.read_text().split("\n") if STAMP.exists() else []
    if fingerprint(lock) in installed or fingerprint(DEVELOPMENT_LOCK) in installed:
        return
    if any(line.startswith(DEVELOPMENT_LOCK) for line in installed):
        lock = DEVELOPMENT_LOCK  # an environment for development stays one
    STAMP.unlink(missing_ok=True)
    print(f"Installing {lock} into {VENV.name} (once; downloads about 2.5 GB the first time)", flush=True)
    if not works("-m", "pip", "--version"):
        create_venv()
    if not works("-m", "uv", "--version"):
        with tempfile.NamedTemporaryFile("w", suffix=".txt", delete=False) as requirement:
            requirement.write(pinned_requirement(lock, "uv"))
        run(
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--require-hashes",
            "-r",
            requirement.name,
        )
        Path(requirement.name).unlink()
    # Bytecode is compiled once here: where PYTHONDONTWRITEBYTECODE is set, every later start would pay for it.
    target = ("--python", str(PYTHON))
    run("uv", "pip", "sync", "--quiet", *target, "--compile-bytecode", "--require-hashes", lock)
    run("uv", "pip", "install", "--quiet", *target, "--no-deps", "--no-build-isolation", "--editable", ".")
    STAMP.write_text(fingerprint(lock) + "\n")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "requirements.lock")
