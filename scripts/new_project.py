"""Start a project of one's own from this template: `make new NAME=leaf_sorter DEST=../leaf_sorter`.

Copies what is committed here to a new directory, renames it there, and commits it as the first commit of a history of
its own. Later versions of the template come by `make update`.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import rename

TRAILER = "Template-Commit"  # of the commits that hold the template as it was: `make update` starts from these


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="name of the package, such as leaf_sorter")
    parser.add_argument("destination", type=Path, help="a directory that is not there yet, or is empty")
    parser.add_argument("--without", default="", help="options to leave out, such as 'experiment/best_gpu data/kmnist'")
    arguments = parser.parse_args()
    destination = arguments.destination.expanduser().absolute()
    if problem := rename.problem_with(arguments.name) or problem_with_destination(destination):
        sys.exit(f"error: {problem}; for example: make new NAME=leaf_sorter DEST=../leaf_sorter")
    existed = destination.exists()
    checkout(rename.ROOT, "HEAD", destination)
    done = run_rename(destination, arguments.name, arguments.without, rename.source())
    if done.returncode != 0:
        remove(destination, keep=existed)
        sys.exit(done.stderr.strip())
    commit = rename.git("rev-parse", "HEAD").strip()
    subprocess.run(["rm", "-rf", destination / ".git"], check=True)
    git(destination, "init", "--quiet", "--initial-branch=main")
    git(destination, "add", "--all")
    message = f"{arguments.name}, made from a template\n\n{TRAILER}: {commit}"
    git(destination, *author(destination), "commit", "--quiet", "--message", message)
    print(f"{destination}: one commit, a history of its own. Next: cd {destination} && make train")
    print("What is yours to write: git grep -n TODO:")


def problem_with_destination(destination: Path) -> str:
    if destination.is_relative_to(rename.ROOT):
        return f"expected a directory outside of the template but found DEST={destination}"
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        return f"expected a directory that is not there yet or empty but found DEST={destination}"
    return ""


def checkout(repository: str | Path, revision: str, destination: Path) -> None:
    """A clone at a revision, with a name for the commits that are made in it."""
    subprocess.run(["git", "clone", "--quiet", "--no-checkout", str(repository), str(destination)], check=True)
    git(destination, "checkout", "--quiet", "--detach", revision)


def run_rename(directory: Path, name: str, without: str, source: str) -> subprocess.CompletedProcess[str]:
    """Rename a clone by its own script."""
    command = [sys.executable, "scripts/rename.py", name, "--without", without, "--source", source]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True)


def git(directory: Path, *arguments: str) -> str:
    """The output of a git command.

    Raises:
        SystemExit: It failed.
    """
    done = subprocess.run(["git", *arguments], cwd=directory, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"error: `git {' '.join(arguments)}` failed in {directory}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def author(directory: Path) -> list[str]:
    """Settings by which git can commit, where the user has told it no name."""
    known = subprocess.run(["git", "config", "user.email"], cwd=directory, capture_output=True).returncode == 0
    return (
        [] if known or os.environ.get("GIT_AUTHOR_EMAIL") else ["-c", "user.name=me", "-c", "user.email=me@localhost"]
    )


def remove(destination: Path, *, keep: bool) -> None:
    subprocess.run(["rm", "-rf", destination], check=True)
    if keep:
        destination.mkdir()


if __name__ == "__main__":
    main()
