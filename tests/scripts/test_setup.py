"""Set-up is done once, repaired when it was interrupted, and never installs what the lock does not pin."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from image_classifier.engine.project import PROJECT_ROOT

LOCK = """# made by a test
alpha==1.0 \\
    --hash=sha256:aa
uv==2.0 \\
    --hash=sha256:bb \\
    --hash=sha256:cc
    # via image-classifier
zeta==3.0 --hash=sha256:dd
"""


@pytest.fixture
def setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script in a project of its own whose commands are recorded in `calls` and not run."""
    specification = importlib.util.spec_from_file_location("setup_script", PROJECT_ROOT / "scripts" / "setup.py")
    assert specification and specification.loader
    script = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(script)
    for lock in ("requirements.lock", "requirements-dev.lock"):
        (tmp_path / lock).write_text(LOCK)
    (tmp_path / "pyproject.toml").write_text("[project]")
    (tmp_path / ".venv").mkdir()
    monkeypatch.setattr(script, "ROOT", tmp_path)
    monkeypatch.setattr(script, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(script, "STAMP", tmp_path / ".venv" / "installed-locks.txt")
    script.calls = []  # type: ignore[attr-defined]
    monkeypatch.setattr(script, "run", lambda *command: script.calls.append(" ".join(command)))  # type: ignore[attr-defined]
    monkeypatch.setattr(script, "works", lambda *command: True)
    return script


def test_second_set_up_does_nothing(setup: ModuleType) -> None:
    setup.main("requirements.lock")
    assert len(setup.calls) == 2 and "--require-hashes requirements.lock" in setup.calls[0]
    assert "--compile-bytecode" in setup.calls[0] and "--editable ." in setup.calls[1]
    setup.main("requirements.lock")
    assert len(setup.calls) == 2


@pytest.mark.parametrize("changed", ["requirements.lock", "pyproject.toml"])
def test_changed_lock_is_installed_again(setup: ModuleType, changed: str) -> None:
    setup.main("requirements.lock")
    with (setup.ROOT / changed).open("a") as file:
        file.write("# changed\n")
    setup.main("requirements.lock")
    assert len(setup.calls) == 4


def test_development_lock_serves_for_training_and_not_the_reverse(setup: ModuleType) -> None:
    setup.main("requirements-dev.lock")
    setup.main("requirements.lock")
    assert len(setup.calls) == 2
    setup.STAMP.unlink()
    setup.main("requirements.lock")
    setup.main("requirements-dev.lock")
    assert len(setup.calls) == 6


def test_interrupted_set_up_is_done_again(setup: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*command: str) -> None:
        raise KeyboardInterrupt

    setup.main("requirements.lock")
    with (setup.ROOT / "requirements.lock").open("a") as file:
        file.write("# changed\n")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(setup, "run", interrupted)
        setup.main("requirements.lock")
    assert not setup.STAMP.exists()
    setup.main("requirements.lock")
    assert len(setup.calls) == 4 and setup.STAMP.exists()


def test_only_the_pinned_installer_is_taken(setup: ModuleType) -> None:
    pinned = setup.pinned_requirement("requirements.lock", "uv")
    assert "uv==2.0" in pinned and "sha256:cc" in pinned and "zeta" not in pinned and "alpha" not in pinned
    with pytest.raises(SystemExit, match=r"requirements\.lock does not pin nothing; run `make lock`"):
        setup.pinned_requirement("requirements.lock", "nothing")


def test_old_python_is_told(setup: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 1))
    with pytest.raises(SystemExit, match=r"expected Python >= 3\.11 but found"):
        setup.create_venv()
