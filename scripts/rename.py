"""Turn a clone into one's own project: `make rename NAME=my_project`.

Renames the package folder, every import and `_target_`, the metadata, the title of the README and the W&B project.
Refuses names that are not valid, and a working tree with uncommitted changes, which could not be told from its own.
"""

import argparse
import keyword
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OLD_PACKAGE = next(path.parent.name for path in (ROOT / "src").glob("*/__init__.py"))
OLD_DISTRIBUTION = OLD_PACKAGE.replace("_", "-")
OLD_TITLE = OLD_PACKAGE.replace("_", " ").capitalize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="name of the new package, such as my_project")
    name = parser.parse_args().name
    if problem := problem_with(name):
        sys.exit(f"error: {problem}; for example: make rename NAME=my_project")
    changed = git("status", "--porcelain").strip()
    if changed:
        sys.exit(f"error: expected a clean working tree but found changes; commit or stash them first:\n{changed}")
    files = [ROOT / path for path in git("ls-files").splitlines()]
    for path in files:
        replace_names(path, name)
    git("mv", f"src/{OLD_PACKAGE}", f"src/{name}")
    print(f"Renamed {OLD_PACKAGE} to {name}. Now run `make test`, look at `git diff HEAD`, and commit.")


def problem_with(name: str) -> str:
    """What is wrong with a package name, in words; empty when it is fine."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        return f"expected a name of lower-case letters, digits and underscores, a letter first, but found {name!r}"
    if keyword.iskeyword(name):
        return f"expected a name that is no Python keyword but found {name!r}"
    if name == OLD_PACKAGE:
        return f"expected a new name but found the present one, {name!r}"
    if name in sys.stdlib_module_names or name in installed_modules():
        return f"expected a name that no installed package has but found {name!r}"
    return ""


def installed_modules() -> set[str]:
    """Top-level modules of the packages in this environment, which a package of the same name would hide."""
    from importlib.metadata import packages_distributions

    return set(packages_distributions()) - {OLD_PACKAGE}


def git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    except FileNotFoundError:
        sys.exit("error: expected git to tell which files are the project's but found none in PATH; install it")
    if done.returncode != 0:
        sys.exit(f"error: `git {' '.join(arguments)}` failed: {done.stderr.strip()}")
    return done.stdout


def replace_names(path: Path, name: str) -> None:
    """Write the new names into one text file."""
    if path.is_symlink():
        return
    try:
        text = path.read_bytes().decode()
    except UnicodeDecodeError:  # a picture
        return
    renamed = (
        text.replace(OLD_PACKAGE, name)
        .replace(OLD_DISTRIBUTION, name.replace("_", "-"))
        .replace(f"# {OLD_TITLE}\n", f"# {name.replace('_', ' ').capitalize()}\n")
    )
    if renamed != text:
        path.write_bytes(renamed.encode())


if __name__ == "__main__":
    main()
