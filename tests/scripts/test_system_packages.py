"""What tests need of the system is installed where nobody is asked, else named; a test that lacks it says so."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import system_packages

from image_classifier.engine.project import PROJECT_ROOT

APT = """#!/bin/sh
echo "$DEBIAN_FRONTEND $*" >> "$0.log"
case "$*" in *install*) test -e "$0.broken" && { echo "E: Unable to locate package g++" >&2; exit 100; };; esac
exit 0
"""
SUDO = """#!/bin/sh
echo "$*" >> "$0.log"
test "$1" = -n || exit 9
test -e "$0.asks" && { echo "sudo: a password is required" >&2; exit 1; }
shift
exec "$@"
"""


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """A machine with these programs, and a user with this id; returns the directory of its programs."""

    def make(*programs: str, user: int = 0) -> Path:
        for name in ("env", "sh", "true", "test"):
            (tmp_path / name).symlink_to(f"/usr/bin/{name}")
        for name in programs:
            (tmp_path / name).write_text({"apt-get": APT, "sudo": SUDO}.get(name, "#!/bin/sh\n"))
            (tmp_path / name).chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.delenv("CI", raising=False)
        monkeypatch.setattr(system_packages, "DAEMONS", ())
        monkeypatch.setattr(os, "geteuid", lambda: user)
        return tmp_path

    return make


CHROMIUM, FIREFOX, GIT, COMPILER = ("chromium", "chromedriver"), ("firefox",), ("git",), ("g++",)
SLURM = ("slurmctld", "slurmd", "sbatch", "munged")


def calls(program: Path) -> list[str]:
    log = program.with_name(program.name + ".log")
    return log.read_text().splitlines() if log.exists() else []


def test_nothing_missing_is_nothing_done(machine: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    programs = machine("apt-get", *CHROMIUM, *FIREFOX, *GIT, *COMPILER, *SLURM)
    system_packages.main()
    assert calls(programs / "apt-get") == [] and capsys.readouterr() == ("", "")


@pytest.mark.parametrize("user", [0, 1000])
def test_what_is_missing_is_installed(
    user: int, machine: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    programs = machine("apt-get", "sudo", *FIREFOX, *GIT, *COMPILER, *SLURM, user=user)
    system_packages.main()
    update, install = calls(programs / "apt-get")
    assert update.startswith("noninteractive -qq ") and update.endswith(" update")
    packages = "chromium chromium-driver fonts-dejavu-core"
    assert install.endswith(f" install --yes --no-install-recommends {packages}")
    assert bool(calls(programs / "sudo")) == bool(user)
    assert capsys.readouterr() == (f"Installing {packages}\n", "")


@pytest.mark.parametrize("ci", [False, True])
@pytest.mark.parametrize(
    ("present", "user", "reason"),
    [
        ((), 0, "there is no apt-get"),
        (("apt-get",), 1000, "this needs root, or a sudo that asks for no password"),
        (("apt-get", "sudo", "sudo.asks"), 1000, "this needs root, or a sudo that asks for no password"),
        (("apt-get", "apt-get.broken"), 0, "E: Unable to locate package g++"),
    ],
    ids=["no apt", "no root", "a password", "no network"],
)
def test_what_cannot_be_installed_is_named_and_is_an_error_in_ci(
    ci: bool,
    present: tuple[str, ...],
    user: int,
    reason: str,
    machine: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    programs = machine(*present, *CHROMIUM, *FIREFOX, *GIT, *SLURM, user=user)
    monkeypatch.setenv("CI", "true") if ci else None
    if ci:
        with pytest.raises(SystemExit, match="with CI=true every test runs"):
            system_packages.main()
    else:
        system_packages.main()
    assert f"Not installed: g++ ({reason})" in capsys.readouterr().err
    assert all(call.startswith("-n ") for call in calls(programs / "sudo")), "a password is never asked for"


def test_what_cannot_be_had_stops_nothing_else(
    machine: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Ubuntu has Firefox as a snap only."""
    programs = machine("apt-get", *GIT, *COMPILER)
    apt = (programs / "apt-get").read_text().replace("*install*", "*firefox*")
    (programs / "apt-get").write_text(apt)
    (programs / "apt-get.broken").touch()
    system_packages.main()
    output, errors = capsys.readouterr()
    assert [line.split()[1] for line in output.splitlines()] == ["chromium", "firefox-esr", "slurmctld"]
    assert errors.count("Not installed") == 1 and "Not installed: firefox-esr (E: Unable" in errors


def test_the_reason_names_what_is_missing(machine: Callable[..., Path]) -> None:
    machine("chromium", *SLURM, user=1000)
    assert system_packages.why_not("chromium") == (
        "chromedriver missing; on Debian or Ubuntu: apt-get install chromium chromium-driver fonts-dejavu-core"
    )
    assert system_packages.why_not("slurm") == "only root may start the daemons of Slurm"


@pytest.mark.slow
def test_without_their_programs_tests_are_skipped_and_fail_in_ci(tmp_path: Path) -> None:
    plugin = "import system_packages\nsystem_packages.DAEMONS = ()\n"
    (tmp_path / "no_daemons.py").write_text(plugin)
    files = ["tests/engine/loggers/test_tensorboard_page.py", "tests/engine/sweeps/test_launchers.py"]
    options = [
        "-n0",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no_daemons",
        "-m",
        "slow or not slow",
        "-k",
        "tab_shows or optuna_sweep",
    ]
    runs = []
    for ci in ("", "true"):
        environment = {**os.environ, "PATH": str(tmp_path), "CI": ci}
        environment["PYTHONPATH"] = os.pathsep.join((str(tmp_path), str(PROJECT_ROOT / "scripts")))
        command = [sys.executable, "-m", "pytest", *options, *files]
        runs.append(subprocess.Popen(command, cwd=PROJECT_ROOT, env=environment, stdout=subprocess.PIPE, text=True))
    elsewhere, in_ci = (run.communicate(timeout=120)[0] for run in runs)
    assert runs[0].returncode == 0 and "2 skipped" in elsewhere
    assert "chromium and chromedriver missing; on Debian or Ubuntu: apt-get install chromium" in elsewhere
    assert "slurmctld and slurmd and sbatch and munged missing" in elsewhere
    assert runs[1].returncode == 1 and "2 errors" in in_ci
