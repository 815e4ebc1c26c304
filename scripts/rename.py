"""Turn a clone into one's own project: `make rename NAME=my_project`.

Renames the package folder, every import and `_target_`, the metadata and the W&B project; puts a line that says what
to write in place of what describes the template (title, first paragraph, results, pictures, description, licence
holder); and leaves out the options that are not wanted: `WITHOUT="experiment/best_gpu data/kmnist"`.
Refuses names that are not valid, and a working tree with uncommitted changes, which could not be told from its own.
"""

import argparse
import json
import keyword
import re
import subprocess
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OLD_PACKAGE = next(path.parent.name for path in (ROOT / "src").glob("*/__init__.py"))
OLD_DISTRIBUTION = OLD_PACKAGE.replace("_", "-")
OLD_TITLE = OLD_PACKAGE.replace("_", " ").capitalize()
ORIGIN = ".template.json"  # which commit of the template a project was made from; `make update` reads it
FOLDERS = {"outputs", "data", "venv", "build", "dist"}  # that are or may come to be in the project
OF_THE_TEMPLATE = re.compile(r"<!-- yours: (.*?) -->\n.*?<!-- /yours -->", re.DOTALL)
FOR_CLONERS_OF_IT = re.compile(r"<!-- template -->\n.*?<!-- /template -->\n", re.DOTALL)  # says nothing to a project


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="name of the new package, such as my_project")
    parser.add_argument("--without", default="", help="options to leave out, such as 'experiment/best_gpu data/kmnist'")
    parser.add_argument("--source", help="where the template lies, for its updates (default: where this clone is from)")
    arguments = parser.parse_args()
    without = re.split(r"[,\s]+", arguments.without.strip()) if arguments.without.strip() else []
    if problem := problem_with(arguments.name):
        sys.exit(f"error: {problem}; for example: make rename NAME=my_project")
    if problem := problem_with_options(without):
        sys.exit(f"error: {problem}")
    changed = git("status", "--porcelain").strip()
    if changed:
        sys.exit(f"error: expected a clean working tree but found changes; commit or stash them first:\n{changed}")
    origin = {"source": arguments.source or source(), "commit": git("rev-parse", "HEAD").strip()}
    rename(arguments.name, without, origin)
    print(f"Renamed {OLD_PACKAGE} to {arguments.name}. Now run `make test`, look at `git diff HEAD`, and commit.")
    print("What is yours to write: git grep -n TODO:")
    if named := mentions(without):
        print(f"Still named, look at them: {', '.join(named)}")


def rename(name: str, without: Sequence[str], origin: dict[str, str]) -> None:
    """Make the working tree one of a project of that name."""
    for option in without:
        git("rm", "--quiet", f"configs/{option}.yaml")
    for path in [ROOT / path for path in git("ls-files").splitlines()]:
        replace_names(path, name)
    remember_old_name(name)
    put_placeholders()
    git("mv", f"src/{OLD_PACKAGE}", f"src/{name}")
    content = origin | {"name": name, "without": list(without)}
    (ROOT / ORIGIN).write_text(json.dumps(content, indent=2) + "\n")
    git("add", ORIGIN)


def problem_with(name: str) -> str:
    """What is wrong with a package name, in words; empty when it is fine."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        return f"expected a name of lower-case letters, digits and underscores, a letter first, but found {name!r}"
    if keyword.iskeyword(name) or keyword.issoftkeyword(name):
        return f"expected a name that is no Python keyword but found {name!r}"
    if name == OLD_PACKAGE:
        return f"expected a new name but found the present one, {name!r}"
    if name in FOLDERS | {path.partition("/")[0].removesuffix(".py") for path in git("ls-files").splitlines()}:
        return f"expected a name that no folder or script of the project has but found {name!r}"
    if name in sys.stdlib_module_names or name in installed_modules():
        return f"expected a name that no installed package has but found {name!r}"
    return ""


def problem_with_options(without: Sequence[str]) -> str:
    """What is wrong with options that are to be left out, in words; empty when they can be."""
    configs = ROOT / "configs"
    for option in without:
        if not re.fullmatch(r"\w+(/\w+)+", option) or not (configs / f"{option}.yaml").is_file():
            return f"expected options such as experiment/best_gpu but found {option}, which configs/ does not have"
        group, _, name = option.rpartition("/")
        for path in sorted(configs.rglob("*.yaml")):
            other = path.relative_to(configs).as_posix().removesuffix(".yaml")
            beside = f"{name}|" if other.rpartition("/")[0] == group else ""
            if other not in without and re.search(
                rf"^\s*- (?:{beside}(?:override )?/?{group}: {name})\s*(?:#.*)?$", path.read_text(), re.MULTILINE
            ):
                return f"expected options that no other file needs but found {option}, which configs/{other}.yaml names"
    return ""


def installed_modules() -> set[str]:
    """Top-level modules of the packages that are or will be installed; a package of the same name would hide one."""
    from importlib.metadata import packages_distributions

    locked = re.findall(r"^([\w.-]+)==", (ROOT / "requirements-dev.lock").read_text(), re.MULTILINE)
    return (set(packages_distributions()) | {name.replace("-", "_") for name in locked}) - {OLD_PACKAGE}


def git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    except FileNotFoundError:
        sys.exit("error: expected git to tell which files are the project's but found none in PATH; install it")
    if done.returncode != 0:
        sys.exit(f"error: `git {' '.join(arguments)}` failed: {done.stderr.strip()}")
    return done.stdout


def source() -> str:
    """Where this clone is from; itself, when it is from nowhere."""
    found = subprocess.run(["git", "remote", "get-url", "origin"], cwd=ROOT, capture_output=True, text=True)
    return found.stdout.strip() or str(ROOT)


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


def remember_old_name(name: str) -> None:
    """Let checkpoints of before be read: they name classes of the old package."""
    path = ROOT / "src" / OLD_PACKAGE / "engine" / "former_names.py"
    found = re.search(r"^FORMER_NAMES.*?= \((.*)\).*$", path.read_text(), re.MULTILINE)
    assert found is not None
    names = [old for old in re.findall(r'"(\w+)"', found[1]) if old != name] + [OLD_PACKAGE]
    listed = ", ".join(f'"{old}"' for old in names) + ("," if len(names) == 1 else "")
    line = f"FORMER_NAMES: tuple[str, ...] = ({listed})  # `make rename` adds to them"
    path.write_text(path.read_text().replace(found[0], line))


def put_placeholders() -> None:
    """Say what is to be written in place of what describes the template."""
    for page in ("README.md", "CHANGELOG.md", "SECURITY.md"):
        replace(ROOT / page, FOR_CLONERS_OF_IT, "")
        replace(ROOT / page, OF_THE_TEMPLATE, r"*TODO: \1*")
    title = 'title: "TODO: what is cited"\ntype: software\nauthors:\n  - name: "TODO: who made it"\n'
    replace(ROOT / "CITATION.cff", re.compile(r"^title: .*?(?=^license:)", re.MULTILINE | re.DOTALL), title)
    replace(ROOT / "pyproject.toml", re.compile(r'^description = ".*"$', re.MULTILINE), 'description = "TODO: a line"')
    holder = f"Copyright (c) {date.today().year} TODO: the holder of the licence"
    replace(ROOT / "LICENSE", re.compile(r"^Copyright \(c\).*$", re.MULTILINE), holder)


def replace(path: Path, pattern: re.Pattern[str], text: str) -> None:
    if path.is_file():
        path.write_text(pattern.sub(text, path.read_text()))


def mentions(without: Sequence[str]) -> list[str]:
    """Files that still name an option that was left out."""
    patterns = [part for option in without for part in ("-e", option.replace("/", "="))]
    if not patterns:
        return []
    found = subprocess.run(["git", "grep", "-lF", *patterns], cwd=ROOT, capture_output=True, text=True)
    return [name for name in found.stdout.splitlines() if name != ORIGIN]


if __name__ == "__main__":
    main()
