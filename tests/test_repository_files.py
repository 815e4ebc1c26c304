"""What GitHub, editors and contributors read: each file is what its reader expects, and names what is there."""

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from image_classifier.engine.launch.environment import read_environment
from image_classifier.engine.project import PROJECT_ROOT

WORKFLOWS = sorted((PROJECT_ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted(path for path in (PROJECT_ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.stem != "config")


def load(path: str) -> Any:
    return yaml.safe_load((PROJECT_ROOT / path).read_text())


@pytest.mark.parametrize(
    ("schema", "files"),
    [
        ("github-workflows", WORKFLOWS),
        ("github-issue-forms", FORMS),
        ("github-issue-config", [".github/ISSUE_TEMPLATE/config.yml"]),
        ("dependabot", [".github/dependabot.yml"]),
        ("citation-file-format", ["CITATION.cff"]),
    ],
)
def test_files_have_the_form_that_their_readers_ask_for(schema: str, files: list[str | Path]) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", *files]
    done = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_every_supported_python_is_tested() -> None:
    versions = load(".github/workflows/ci.yml")["jobs"]["test"]["strategy"]["matrix"]["python-version"]
    oldest = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert f">={versions[0]}" == oldest and versions == [f"3.{minor}" for minor in range(11, 15)]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_start_what_is_there(workflow: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (PROJECT_ROOT / "Makefile").read_text(), re.MULTILINE))
    commands = re.findall(r"run: ([^\n#]+)", workflow.read_text())
    assert commands
    for command in map(str.strip, commands):
        assert (
            command.removeprefix("make ").split()[0] in targets
            if command.startswith("make ")
            else (PROJECT_ROOT / command).is_file()
        )


def test_hooks_are_the_tools_of_the_lock() -> None:
    """They run from .venv: their versions cannot differ from the lock's, and `make lint` runs the same."""
    lock = (PROJECT_ROOT / "requirements-dev.lock").read_text()
    makefile = (PROJECT_ROOT / "Makefile").read_text()
    (repository,) = load(".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local" and len(repository["hooks"]) == 4
    for hook in repository["hooks"]:
        folder, _, tool = hook["entry"].split()[0].rpartition("/")
        package = {"lint-imports": "import-linter"}.get(tool, tool)
        assert hook["language"] == "system" and folder == ".venv/bin"
        assert f"\n{package}==" in lock and f"$(VENV)/{tool}" in makefile
    command = [sys.executable, "-m", "pre_commit", "validate-config", ".pre-commit-config.yaml"]
    assert subprocess.run(command, cwd=PROJECT_ROOT).returncode == 0


def test_editors_start_what_is_there() -> None:
    launch = json.loads((PROJECT_ROOT / ".vscode" / "launch.json").read_text())
    assert [entry["name"] for entry in launch["configurations"]] == ["Train", "Debug one batch", "Test this file"]
    inputs = {entry["id"] for entry in launch["inputs"]}
    for entry in launch["configurations"]:
        if "program" in entry:
            assert (PROJECT_ROOT / entry["program"].removeprefix("${workspaceFolder}/")).is_file()
        assert set(re.findall(r"\$\{input:(\w+)\}", json.dumps(entry))) <= inputs
    json.loads((PROJECT_ROOT / ".vscode" / "settings.json").read_text())
    json.loads((PROJECT_ROOT / ".vscode" / "extensions.json").read_text())
    container = json.loads((PROJECT_ROOT / ".devcontainer" / "devcontainer.json").read_text())
    assert container["postCreateCommand"] == "make setup-dev"


def test_the_debuggers_batch_trains(train: Callable[..., Path]) -> None:
    launch = json.loads((PROJECT_ROOT / ".vscode" / "launch.json").read_text())
    assert (train(*launch["configurations"][1]["args"]) / "metrics.json").is_file()


def test_the_image_copies_what_set_up_needs() -> None:
    copied = re.findall(r"^COPY (.+) \S+$", (PROJECT_ROOT / "Dockerfile").read_text(), re.MULTILINE)
    for name in " ".join(copied).split():
        assert (PROJECT_ROOT / name).exists(), name
    ignored = (PROJECT_ROOT / ".dockerignore").read_text().split()
    assert {".venv", ".env", "data", "outputs"} <= set(ignored)


# Keys and addresses.


def test_a_variable_of_the_file_counts_where_none_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("# keys\nNEW_KEY=a$b#c\nQUOTED='x y'\nHERE_ALREADY=other\nEMPTY=\n")
    for name in ("NEW_KEY", "QUOTED", "EMPTY"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HERE_ALREADY", "mine")
    read_environment(tmp_path)
    assert (os.environ["NEW_KEY"], os.environ["QUOTED"], os.environ["HERE_ALREADY"]) == ("a$b#c", "x y", "mine")
    assert "EMPTY" not in os.environ


def test_without_the_file_nothing_is_set(tmp_path: Path) -> None:
    before = dict(os.environ)
    read_environment(tmp_path)
    assert dict(os.environ) == before


def test_the_example_is_read_as_it_is_and_git_ignores_its_copy(tmp_path: Path) -> None:
    example = (PROJECT_ROOT / ".env.example").read_text()
    assert "WANDB_API_KEY=\n" in example and "WANDB_BASE_URL" in example
    done = subprocess.run(["git", "check-ignore", ".env"], cwd=PROJECT_ROOT, capture_output=True, text=True)
    assert done.stdout == ".env\n"


def test_commands_read_it(tmp_path: Path) -> None:
    """In a project of its own: the file of this one is the user's."""
    code = "import os, sys; sys.argv[0] = 'train.py'; from image_classifier.engine.launch import commands as c\n"
    code += "from pathlib import Path; c.PROJECT_ROOT = Path.cwd()\n"
    code += "start = c.command('train', lambda: None)(lambda cfg: print('host', os.environ['WANDB_BASE_URL'])); start()"
    (tmp_path / ".env").write_text("WANDB_BASE_URL=https://wandb.example.org\n")
    command = [sys.executable, "-c", code, f"hydra.run.dir={tmp_path}/run", "trainer=cpu"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert "host https://wandb.example.org\n" in done.stdout, done.stderr
