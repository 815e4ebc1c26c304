"""Options as they are typed: a mistyped one is told with those there are, another template's with its name here."""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from image_classifier.engine.errors import UserError
from image_classifier.engine.launch.yaml_comments import option_files

CHOICE = re.compile(r"(?P<group>[a-z_]+(?:/[a-z_]+)*)=(?P<options>\[[^\[\]{}]*\]|[\w\-,./ ]+)")
OTHER_DIRECTORIES = ("-cd", "--config-dir", "-cp", "--config-path", "hydra.searchpath")

# What other templates, above all lightning-hydra-template, call something that is here too.
NAMES_ELSEWHERE = {
    "debug=default": "debug=one_batch",
    "debug=fdr": "debug=one_batch (Lightning's own is ++trainer.fast_dev_run=true)",
    "debug=limit": "debug=limited_data",
    "logger=many_loggers": "logger=[tensorboard,csv,wandb]",
    "logger=comet": "logger=wandb",
    "logger=neptune": "logger=wandb",
    "logger=aim": "logger=wandb",
    "trainer=mps": "trainer.accelerator=mps",
    "trainer=ddp_sim": "trainer=ddp trainer.accelerator=cpu",
    "experiment=example": "experiment=keras_tutorial",
    "callbacks=rich_progress_bar": "callbacks=progress_bar",
    "hparams_search": "-m sweep=optuna (docs/sweeps.md)",
    "tags": "+logger.wandb.tags=[NAME,...] with logger=wandb; hydra.run.dir=DIR for a directory of that name",
    "task_name": "hydra.run.dir=DIR for a name of its own",
    "optimized_metric": "monitor.metric",
    "data.pin_memory": "leave it out, for it is done where there is a GPU",
    "data.train_val_test_split": "data.val_size, a count or a fraction",
    "paths.log_dir": "paths.output_dir",
    "trainer.min_epochs": "+trainer.min_epochs, as any argument of Lightning's Trainer",
    "trainer.overfit_batches": "debug=overfit; or +trainer.overfit_batches, as any argument of Lightning's Trainer",
    "extras": "leave it out, for what it does is always done (config.yaml in the run directory)",
}


def check_choices(arguments: Sequence[str], config_dir: Path) -> None:
    """Look at the options that were typed, before Hydra does.

    Args:
        arguments: Of a command.
        config_dir: Where its options lie.

    Raises:
        UserError: A group has no such option, or another template's name was typed.
    """
    for argument in arguments:
        if typed := re.fullmatch(r"\+*trusted=(?!default$)(.*)", argument, re.DOTALL):
            raise UserError(
                f"expected trusted in a file, for it says what others' files may call, but found {argument}; write it "
                f"into configs/local/default.yaml: trusted: {typed[1]}"
            )
    if names_directories(arguments):
        return
    for argument in arguments:
        key = argument.partition("=")[0]
        for foreign in (key, key.lstrip("+").partition(".")[0]):
            if foreign in NAMES_ELSEWHERE and not is_here(foreign, config_dir):
                raise UserError(
                    f"expected a setting of this project but found {argument}; here: {NAMES_ELSEWHERE[foreign]}"
                )
        typed = CHOICE.fullmatch(argument.lstrip("+"))
        if typed and (config_dir / typed["group"]).is_dir() and not typed["group"].startswith("hydra"):
            for option in split_options(typed["options"]):
                check_option(config_dir, typed["group"], option, argument)


def names_directories(arguments: Sequence[str]) -> list[str]:
    """Those arguments that name further folders of configuration files."""
    found: list[str] = []
    for number, argument in enumerate(arguments):
        if argument.partition("=")[0] in OTHER_DIRECTORIES:
            found += arguments[number : number + (1 if "=" in argument else 2)]
    return found


def is_here(name: str, config_dir: Path) -> bool:
    """Whether a project has given itself a group or a setting of that name."""
    key = re.compile(rf"^\s*{re.escape(name.rpartition('.')[2])}:", re.MULTILINE)
    return (config_dir / name).is_dir() or any(key.search(file.read_text()) for file in config_dir.rglob("*.yaml"))


def split_options(options: str) -> list[str]:
    """Options that were typed one by one, in a list or as a sweep."""
    return re.split(r"[,\s]+", options.strip("[] "))


def check_option(config_dir: Path, group: str, option: str, argument: str) -> None:
    if option in ("", "null") or (config_dir / group / f"{option.removesuffix('.yaml')}.yaml").is_file():
        return
    if here := NAMES_ELSEWHERE.get(f"{group}={option}"):
        raise UserError(f"expected an option of {group} but found {argument}, which other templates have; here: {here}")
    options = list(option_files(config_dir, group))
    similar = get_close_matches(option, options, n=1)
    raise UserError(
        f"expected {group} to be one of {', '.join(options)} but found {option}; "
        f"{f'did you mean {group}={similar[0]}?' if similar else f'for example {group}={options[0]}'}"
    )
