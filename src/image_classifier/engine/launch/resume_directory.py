"""`resume=DIRECTORY`: the overrides and the last checkpoint of a run, and the same directory again."""

from collections.abc import Sequence
from pathlib import Path

import yaml

from image_classifier.engine.errors import UserError
from image_classifier.engine.launch.choices import names_directories
from image_classifier.engine.launch.foreign_overrides import check_overrides
from image_classifier.engine.overrides import PARSER, quoted
from image_classifier.engine.terminal import say, shell_joined

KEY = "resume"
FROM_TYPED = "command-line"  # what Hydra calls it


def with_those_of_the_run(arguments: Sequence[str]) -> list[str]:
    """Put the overrides of the first start in the place of `resume=DIRECTORY`.

    Args:
        arguments: Of a command, after `prepare`. Overrides of the same settings go before those of the first start.

    Returns:
        Arguments that train on in that directory; as they were when none of them says resume.

    Raises:
        UserError: There is no such run, it is part of a sweep that is asked for, or its files say what must be typed.
    """
    found = [argument for argument in arguments if argument.startswith(f"{KEY}=")]
    if not found:
        return list(arguments)
    directory = directory_of(found[-1])
    typed = [argument for argument in arguments if argument not in found]
    if any(argument in ("-m", "--multirun") for argument in typed):
        raise UserError(
            f"expected {KEY}=DIR to go on with one run but found -m; leave it out, or start the whole sweep again with "
            "hydra.sweep.dir=DIR"
        )
    if given := next((text for text in typed if key_of(text) in ("ckpt_path", "hydra.run.dir")), None):
        raise UserError(f"expected {KEY}=DIR alone, which settles checkpoint and directory, but found {given}")
    keys = {key_of(argument) for argument in typed}
    before = [text for text in overrides_of(directory) if key_of(text) not in (KEY, "ckpt_path")]
    earlier = [text for text in before if key_of(text) not in keys]
    check_overrides(earlier, directory)
    if not names_directories(typed) and (others := other_directories(directory)):
        raise UserError(
            f"expected the further folders of configuration files that the run was started with but found none; add "
            f"{shell_joined(others)}"
        )
    added = {key_of(text) for text in before if text.startswith("+")}
    typed = [text for text in typed if not (text.startswith("~") and key_of(text) in added)]  # added, and taken away
    own = [quoted("hydra.run.dir", str(directory))]
    last = directory / "checkpoints" / "last.ckpt"
    if last.is_file():
        own.append(quoted("ckpt_path", str(last)))
    else:
        say(f"No checkpoint in {directory} yet: the run starts anew")
    return [*earlier, *typed, *own]


def directory_of(argument: str) -> Path:
    value = PARSER.parse_override(argument).value()
    directory = Path(str(value)).absolute()
    if not (directory / ".hydra" / "overrides.yaml").is_file():
        raise UserError(
            f"expected {KEY} to be the directory of a run of train.py, with .hydra/overrides.yaml in it, but found "
            f"{value}; see outputs/train/"
        )
    return directory


def overrides_of(directory: Path) -> list[str]:
    """The overrides that a run was started with."""
    try:
        content = yaml.safe_load((directory / ".hydra" / "overrides.yaml").read_text())
    except (yaml.YAMLError, UnicodeDecodeError):
        content = None
    if not isinstance(content, list) or not all(isinstance(text, str) for text in content):
        raise UserError(f"expected a list of overrides but found something else in {directory}/.hydra/overrides.yaml")
    return content


def other_directories(directory: Path) -> list[str]:
    """What to type for the further folders of configuration files that a run was started with."""
    try:
        text = (directory / ".hydra" / "hydra.yaml").read_text()
        if FROM_TYPED not in text:  # it takes long to parse
            return []
        sources = yaml.safe_load(text)["hydra"]["runtime"]["config_sources"]
        places = [(str(source["provider"]), str(source["path"])) for source in sources]
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError):
        return []
    typed = [word for provider, path in places if provider == FROM_TYPED for word in ("--config-dir", path)]
    searched = [path for provider, path in places if provider == f"hydra.searchpath in {FROM_TYPED}"]
    return [*typed, *([f"hydra.searchpath=[{','.join(searched)}]"] if searched else [])]


def key_of(override: str) -> str:
    return override.lstrip("+~").partition("=")[0].partition("@")[0]
