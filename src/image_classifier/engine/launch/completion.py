"""Completion in the shell: Hydra's own, for scripts of three lines, without the files that are no options."""

import io
import re
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path

from image_classifier.engine.launch.yaml_comments import groups, option_files

FLAGS = ("-sc", "--shell-completion")
MARK = "@hydra.main"  # by which Hydra 1.4's functions know a script that they may run; ours have it in the package
MARK_HERE = __name__.partition(".")[0]  # what they import


def asks_for_completion(arguments: Sequence[str]) -> bool:
    return not set(FLAGS).isdisjoint(arguments)


def complete(run_hydra: Callable[[], None], config_dir: Path) -> None:
    """Let Hydra print what the shell asks for, and mend it.

    Args:
        run_hydra: The command.
        config_dir: Where the options lie.
    """
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            run_hydra()
    finally:
        print(mended(printed.getvalue(), config_dir), end="")  # noqa: T201  # a shell reads it


def mended(text: str, config_dir: Path) -> str:
    for group in groups(config_dir):
        hidden = {path.stem for path in (config_dir / group).glob("*.yaml")} - set(option_files(config_dir, group))
        for name in hidden:
            text = re.sub(rf"(?<!\S){re.escape(f'{group}={name}')}(?!\S)\s?", "", text)
    return text.replace(MARK, MARK_HERE)
