"""Bring later changes of the template into a project that was made from it: `make update`.

The template of then and the template of now are both given the project's name and left-out options, as two commits of
which the second follows the first; then git merges the second. What both the template and the project changed in the
same place is a conflict as in any merge.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from new_project import TRAILER, author, checkout, git, run_rename
from rename import ORIGIN, ROOT


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", help=f"where the template lies now (default: as in {ORIGIN})")
    parser.add_argument("--revision", default="HEAD", help="of the template, such as a tag (default: its latest)")
    arguments = parser.parse_args()
    if not (ROOT / ORIGIN).is_file():
        sys.exit(f"error: expected {ORIGIN}, which `make new` and `make rename` leave, but found none")
    if changed := git(ROOT, "status", "--porcelain").strip():
        sys.exit(f"error: expected a clean working tree but found changes; commit or stash them first:\n{changed}")
    origin = json.loads((ROOT / ORIGIN).read_text())
    origin["source"] = arguments.source or origin["source"]
    with tempfile.TemporaryDirectory() as directory:
        new, commit = rendered(origin, arguments.revision, Path(directory) / "new")
        if commit == origin["commit"]:
            print("The template has not changed since.")
            return
        base = earlier_template(origin["commit"]) or graft(rendered(origin, origin["commit"], Path(directory) / "old"))
        follow = commit_tree(new, commit, base)
    merged = subprocess.run(
        ["git", *author(ROOT), "merge", "--no-edit", "-m", "Update from the template", follow], cwd=ROOT
    )
    if merged.returncode != 0:
        sys.exit("Solve the conflicts named above, `git add` the files and `git commit`; or go back: git merge --abort")
    print(f"The template of {commit[:10]} is in. Now run `make test`.")


def rendered(origin: dict[str, Any], revision: str, directory: Path) -> tuple[str, str]:
    """The template at a revision with the project's name.

    Returns:
        The tree in the project's repository, and the template's commit.
    """
    try:
        checkout(origin["source"], revision, directory)
    except subprocess.CalledProcessError:
        sys.exit(f"error: expected the template at {origin['source']} but could not clone it; name it: SOURCE=URL")
    commit = git(directory, "rev-parse", "HEAD").strip()
    present = " ".join(option for option in origin["without"] if (directory / f"configs/{option}.yaml").is_file())
    done = run_rename(directory, origin["name"], present, origin["source"])
    if done.returncode != 0:
        sys.exit(done.stderr.strip())
    content = json.loads((directory / ORIGIN).read_text()) | {"without": origin["without"]}
    (directory / ORIGIN).write_text(json.dumps(content, indent=2) + "\n")
    git(directory, "add", "--all")
    tree = git(directory, "write-tree").strip()
    git(directory, *author(directory), "commit", "--quiet", "--message", "rendered")
    git(ROOT, "fetch", "--quiet", "--no-tags", str(directory), "HEAD")  # only its objects are needed
    return tree, commit


def earlier_template(commit: str) -> str | None:
    """The commit in this history that holds the template as it was at one of its commits."""
    pattern = f"^{TRAILER}: {commit}$"
    return git(ROOT, "log", "--extended-regexp", "--grep", pattern, "--format=%H", "-1").strip() or None


def commit_tree(tree: str, commit: str, *parents: str) -> str:
    """Make a commit, without checking it out."""
    before = [part for parent in parents for part in ("-p", parent)]
    message = f"The template at {commit[:10]}\n\n{TRAILER}: {commit}"
    return git(ROOT, *author(ROOT), "commit-tree", tree, *before, "-m", message).strip()


def graft(old: tuple[str, str]) -> str:
    """Record that the project contains the template of then, which a rename in place does not say."""
    base = commit_tree(*old)
    ours = ["merge", "--quiet", "--strategy=ours", "--allow-unrelated-histories", "--no-edit"]
    git(ROOT, *author(ROOT), *ours, "-m", "What this project was made from", base)
    return base


if __name__ == "__main__":
    main()
