"""What the tests need of the operating system: install it where that may be done without asking.

    python3 scripts/system_packages.py

Needs only the standard library. On Debian and Ubuntu, as root or with a sudo that asks for no password, what is missing
is installed; elsewhere it is named, and the tests that need it are skipped. With CI=true, missing is an error.
"""

import os
import shutil
import subprocess
import sys
from typing import NamedTuple


class Need(NamedTuple):
    """Something that tests need."""

    programs: tuple[str, ...]
    packages: tuple[str, ...]  # of Debian and Ubuntu


NEEDS = {
    "chromium": Need(("chromium", "chromedriver"), ("chromium", "chromium-driver", "fonts-dejavu-core")),
    "firefox": Need(("firefox",), ("firefox-esr",)),  # in Ubuntu a snap, which is left to its user
    "slurm": Need(("slurmctld", "slurmd", "sbatch", "munged"), ("slurmctld", "slurmd", "slurm-client", "munge")),
    "g++": Need(("g++",), ("g++",)),  # torch.compile
    "git": Need(("git",), ("git",)),
}
DAEMONS = ("/usr/sbin", "/sbin")  # where Debian puts them, in PATH or not
PATIENCE = ("-o", "Acquire::Retries=1", "-o", "Acquire::http::Timeout=10", "-o", "Acquire::https::Timeout=10")
SECONDS = 600  # that an installation may take


def missing_programs(need: str) -> list[str]:
    path = os.pathsep.join((os.environ.get("PATH", ""), *DAEMONS))
    return [program for program in NEEDS[need].programs if shutil.which(program, path=path) is None]


def why_not(need: str) -> str | None:
    """Why tests that need this cannot run here, and what to do about it; None where they can."""
    if missing := missing_programs(need):
        packages = " ".join(NEEDS[need].packages)
        return f"{' and '.join(missing)} missing; on Debian or Ubuntu: apt-get install {packages}"
    return "only root may start the daemons of Slurm" if need == "slurm" and os.geteuid() != 0 else None


def missing_packages() -> list[tuple[str, ...]]:
    """What is missing, in groups that are of use by themselves."""
    groups = [need.packages for name, need in NEEDS.items() if missing_programs(name)]
    try:
        import ensurepip  # noqa: F401 (in Debian a package of its own, without which there is no .venv)
    except ImportError:
        groups.append(("python3-venv",))
    return groups


def as_root() -> list[str] | None:
    """What to put before a command so that it runs as root; None where that would ask for a password."""
    if os.geteuid() == 0:
        return []
    sudo = ["sudo", "-n"]
    allowed = shutil.which("sudo") and subprocess.run([*sudo, "true"], capture_output=True).returncode == 0
    return sudo if allowed else None


def why_not_installed() -> str | None:
    """Why nothing can be installed without asking; None where it can."""
    if shutil.which("apt-get") is None:
        return "there is no apt-get"
    return None if as_root() is not None else "this needs root, or a sudo that asks for no password"


def apt_get(*arguments: str) -> str | None:
    """Run apt-get; returns why it failed."""
    command = [*(as_root() or []), "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", *PATIENCE, *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return f"apt-get took more than {SECONDS} s"
    if done.returncode == 0:
        return None
    return (done.stderr.strip().splitlines() or [f"apt-get ended with status {done.returncode}"])[-1]


def main() -> None:
    if not (groups := missing_packages()):
        return
    if (reason := why_not_installed()) is None:
        apt_get("update")  # it may fail for a source that nobody needs
    failed = False
    for packages in groups:  # one that cannot be had stops no other
        if reason is None:
            print(f"Installing {' '.join(packages)}", flush=True)
        if why := reason or apt_get("install", "--yes", "--no-install-recommends", *packages):
            print(f"Not installed: {' '.join(packages)} ({why}); tests that need them are skipped", file=sys.stderr)
            failed = True
    if failed and os.environ.get("CI") == "true":
        sys.exit("error: with CI=true every test runs")


if __name__ == "__main__":
    main()
