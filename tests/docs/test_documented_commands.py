"""Each command of README.md and docs/*.md works, shortened by overrides behind it; one that is unknown here fails.

Those of about a second run always, the others are slow, or thorough where they are much like another one (CI runs all).
What is not run stands in `ELSEWHERE`, `MAKE_ELSEWHERE` and `COMPOSED_ONLY`, each with its reason.
"""

import copy
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import hydra
import numpy as np
import pytest
from hydra import initialize_config_dir
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from PIL import Image

import forked
from image_classifier import commands
from image_classifier.engine.errors import UserError
from image_classifier.engine.launch.checks import check_config
from image_classifier.engine.launch.choices import check_choices
from image_classifier.engine.overrides import PARSER, prepare
from image_classifier.engine.project import CONFIG_DIR, PROJECT_ROOT
from tiny import TINY_DATA, TINY_MODEL

# Pages whose commands need what others make: tests/test_extending.py and .ci/run follow them from top to bottom.
FOLLOWED_ELSEWHERE = {"extending.md", "first-hour.md"}
PAGES = [
    PROJECT_ROOT / "README.md",
    *(page for page in sorted((PROJECT_ROOT / "docs").rglob("*.md")) if page.name not in FOLLOWED_ELSEWHERE),
]
SCRIPTS = {"train": commands.train, "eval": commands.evaluate, "predict": commands.predict, "export": commands.export}
RUN = "2026-01-31_12-00-00-000000"

# What is not run here, and why. The rest of a command is anything.
ELSEWHERE = {
    "source .venv/bin/activate": "the environment of these tests may lie elsewhere",
    "cd ": "between directories",
    "pip install .": "tests/test_install.py",
    ".venv/bin/python -m uv pip install": "needs a package index; the packages' names are checked below",
    "wandb login": "needs an account",
    "wandb sync": "needs a server; the files are read back in tests/engine/loggers",
    "git clone": "needs a server",
    "torchrun": "needs two machines; tests/engine/launch/test_processes.py runs it on one",
    "sbatch": "tests/engine/sweeps/test_launchers.py has a cluster",
    "python benchmarks/": "minutes each; `make bench`",
    "python -m pytest": "this is one",
    "kill -9": "no command of this project",
    "git merge --abort": "tests/scripts/test_rename.py",
    "git grep": "git's own",
}
# Targets of make that are not run here, and why; make is asked what it would do.
MAKE_ELSEWHERE = {
    "setup-dev": ".ci/run",
    "lint": ".ci/run",
    "test": ".ci/run",
    "new": "tests/scripts/test_rename.py",
    "rename": "tests/scripts/test_rename.py, .ci/run",
    "update": "tests/scripts/test_rename.py",
    "torture": "half an hour; its tests are those of tests/",
    "bench": "minutes each",
    "tensorboard": "does not end; tests/engine/loggers/test_tensorboard_page.py starts it",
}
OF_PYTHON = ("weights_only=True",)  # arguments, not settings
# The commands and choices with which settings make sense.
CONTEXTS = (
    ("train", []),
    ("train", ["ckpt_path=x"]),
    ("train", ["data=image_folder", "data.root=x"]),
    ("train", ["data=csv", "data.root=x"]),
    ("train", ["data=huggingface", "data.path=x"]),
    ("train", ["data=mnist"]),
    ("train", ["data=webdataset", "data.root=x"]),
    ("train", ["model=timm"]),
    ("train", ["logger=wandb"]),
    ("train", ["sweep=optuna"]),
    ("train", ["hydra/launcher=joblib"]),
    ("train", ["hydra/launcher=submitit_slurm"]),
    ("export", ["ckpt_path=x"]),
    ("predict", ["ckpt_path=x", "input=x"]),
)
COMPOSED_ONLY = {
    "hydra/launcher=submitit": "tests/engine/sweeps/test_launchers.py has a cluster",
    "trainer=ddp": "two processes; trainer.devices=2 runs here, others in tests/engine/launch/test_processes.py",
}
SLOW = re.compile(r" -m |Trivial|cache|export\.py|compare_runs|make (train|report)|logger=wandb")
THOROUGH = re.compile(r"resnet18|best_gpu|n_trials=|multi_objective|make train ARGS|folds|devices")
BEGINNINGS = re.compile(rf"(?:python|make|{'|'.join(map(re.escape, ELSEWHERE))})(?:\b|\s|$)|eval \"\$")
SETTING = re.compile(r"'?[+~]{0,2}[a-z_]+(?:[/.][a-z_0-9A-Z]+)*=.+")

SHORT = (
    *("trainer.max_epochs=1", "trainer.limit_train_batches=1", "trainer.limit_val_batches=1"),
    *("trainer.limit_test_batches=1", "data.batch_size=4", "callbacks.report=null", "callbacks.misclassified=null"),
    *("callbacks.calibration=null", "callbacks.sample_images=null", "callbacks.progress_bar=null"),
)


class Documented(NamedTuple):
    """Something that a reader may type."""

    page: str
    text: str
    output: str = ""  # that the page shows below it


def documented(page: Path) -> Iterator[Documented]:
    """The commands of a page: lines of blocks in bash, what follows a `$ `, and code within sentences."""
    name = page.relative_to(PROJECT_ROOT).as_posix()
    for block in re.finditer(r"^```(\w*)\n(.*?)^```|`([^`\n]+)`", page.read_text(), re.MULTILINE | re.DOTALL):
        language, lines, inline = block.groups()
        if inline:
            if BEGINNINGS.match(inline):
                yield Documented(name, inline)
        elif language == "bash":
            for line in lines.replace("\\\n", " ").splitlines():
                if text := re.sub(r"(^|\s+)#\s.*", "", line).strip():
                    yield Documented(name, text)
        elif not language:
            for text, output in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", lines, re.MULTILINE):
                yield Documented(name, text, output.strip())


def settings_of(page: Path) -> Iterator[Documented]:
    """Overrides within sentences and tables; what continues one before it (`.every_n_epochs=5`) belongs to that."""
    name = page.relative_to(PROJECT_ROOT).as_posix()
    for text in re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)):
        if SETTING.fullmatch(text) and text not in OF_PYTHON:
            yield Documented(name, text)


def filled_in(text: str) -> str:
    """A command with the names of files in the place of what stands for them."""
    run = f"outputs/train/{RUN}"
    for written, meant in (
        ("<other run>", "other"),
        ("<run>", RUN),
        (".../", f"{run}/checkpoints/"),
        ("ckpt_path=...", f"ckpt_path={run}/checkpoints/best.ckpt"),
        ("RUN=...", f"RUN={run}"),
        ("RUN_DIRECTORY", run),
        ("PICTURES", "pictures"),
        ("~/photos", "photos"),
        (" ...", ""),
    ):
        text = text.replace(written, meant)
    return text


# Each once, whatever stands in the place of names.
COMMANDS = list({filled_in(found.text): found for page in reversed(PAGES) for found in documented(page)}.values())
SETTINGS = list({found.text: found for page in PAGES for found in settings_of(page)}.values())


def pictures(directory: Path, size: int = 16) -> Path:
    """Twelve pictures of either of two classes."""
    values = np.random.default_rng(0)
    for name in ("daisy", "rose"):
        (directory / name).mkdir(parents=True)
        for number in range(12):
            pixels = values.integers(256, size=(size, size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(directory / name / f"{number}.png")
    return directory


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with what the pages speak of: pictures, and two runs that were trained on them."""
    place = tmp_path_factory.mktemp("docs")
    for name in ("my_pictures", "other_pictures", "pictures", "photos"):
        pictures(place / name)
    run = place / "outputs" / "train" / RUN
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        data = ("data=image_folder", "data.root=my_pictures", "data.image_size=8", "data.channels=3")
        settings = ("logger=none", "confusion_matrix=none", f"hydra.run.dir={run}", *TINY_MODEL, "trainer=cpu")
        assert run_command("train", [*data, *settings, *SHORT], patch) == 0
    shutil.copytree(run, run.with_name("other"))
    return place


def run_command(name: str, arguments: list[str], patch: pytest.MonkeyPatch) -> int:
    patch.setattr(sys, "argv", [f"{name}.py", *arguments])
    try:
        SCRIPTS[name]()
    except SystemExit as stopped:
        return int(stopped.code or 0)
    return 0


def shortened(name: str, arguments: list[str], place: Path) -> list[str]:
    """Arguments of a command with overrides behind them, by which it takes a second and writes into `place`."""
    typed = " ".join(arguments)
    added = [f"paths.output_dir={place}/outputs"]
    if name == "train":
        added += [] if "resume=" in typed else ["trainer.accelerator=cpu"]
        added += SHORT if "resume=" not in typed else ["trainer.max_epochs=2"]
        if "data=" not in typed and "resume=" not in typed:
            added += [*TINY_DATA, "data.image_size=28", "data.num_samples=40"]
        if "sweep=grid" in typed:
            added += ["model=mlp"]
        if "sweep=optuna" in typed:
            added += ["hydra.sweeper.n_trials=2", "data.batch_size=8"]
    return [*arguments, *added]


def case(command: Documented) -> Any:
    """A command as a case of the test, with a marker where it takes more than about a second."""
    marks = []
    if runs(command):
        marks += [pytest.mark.thorough] if THOROUGH.search(command.text) else []
        marks += [pytest.mark.slow] if SLOW.search(command.text) and not marks else []
    return pytest.param(command, id=f"{command.page}: {command.text}", marks=marks)


def runs(command: Documented) -> bool:
    """Whether a command is run here rather than composed, or left to others."""
    left_out = command.text.startswith((*ELSEWHERE, *(f"make {target}" for target in MAKE_ELSEWHERE)))
    return not left_out and not any(part in command.text for part in COMPOSED_ONLY)


@pytest.mark.parametrize("command", [case(command) for command in COMMANDS])
def test_a_documented_command_works(
    command: Documented, place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("WANDB_MODE", "offline")
    if command.text.startswith("make "):
        check_make(command, place)
        return
    if command.text.startswith(tuple(ELSEWHERE)):
        return
    if "-sc install=" in command.text:
        check_completion(command.text)
        return
    words = shlex.split(filled_in(command.text))
    assert words[0] == "python" and words[1].endswith(".py"), f"tell this test how to run it, in ELSEWHERE: {command}"
    assert (PROJECT_ROOT / words[1]).is_file()
    name, arguments = words[1].removesuffix(".py"), words[2:]
    if not runs(command):
        first_job = [part.partition(",")[0] for part in arguments if part != "-m"]
        status = run_command(name, [*first_job, "--cfg", "job"], monkeypatch)
    elif name not in SCRIPTS or "trainer.devices" in command.text:
        more = shortened(name, arguments, place) if name in SCRIPTS else arguments
        status = forked.run([sys.executable, PROJECT_ROOT / words[1], *more]).returncode
    elif command.output:
        status = run_command(name, arguments, monkeypatch)
    else:
        status = run_command(name, shortened(name, arguments, place), monkeypatch)
    printed = capfd.readouterr()
    if command.output:
        assert command.output in printed.out + printed.err and status != 0
    else:
        assert status == 0, printed.err


def check_make(command: Documented, place: Path) -> None:
    """Run a target as it is typed; of one that is run elsewhere see that make knows what to do, and its scripts."""
    _, *words = shlex.split(filled_in(command.text))
    make = ["make", "-C", str(PROJECT_ROOT), f"VENV={Path(sys.executable).parent}", "--old-file=setup"]
    if not runs(command):
        done = subprocess.run([*make, "-n", *words], capture_output=True, text=True)
        for script in re.findall(r"(?<![\w/])[\w/]+\.py\b", done.stdout):
            assert (PROJECT_ROOT / script).is_file(), script
    else:
        target, *settings = words
        settings = [re.sub(r"=(photos|outputs)\b", rf"={place}/\1", setting) for setting in settings]
        if target == "train":
            given = "".join(setting.removeprefix("ARGS=") for setting in settings)
            settings = [f"ARGS={shlex.join(shortened('train', shlex.split(given), place))}"]
        done = subprocess.run([*make, target, *settings], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip(), done.stderr


def check_completion(text: str) -> None:
    """Run what comes before `| source`, and let bash take it where bash is meant."""
    first = text.partition("|")[0].replace("python", shlex.quote(sys.executable))
    done = subprocess.run(["bash", "-euc", first], cwd=PROJECT_ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def composed() -> list[DictConfig]:
    """The configurations in which settings make sense, composed once: it takes a while."""
    with initialize_config_dir(CONFIG_DIR):
        return [hydra.compose(name, given, return_hydra_config=True) for name, given in CONTEXTS]


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: f"{setting.page}: {setting.text}")
def test_a_documented_setting_is_one(setting: Documented, composed: list[DictConfig]) -> None:
    """Options in sentences and tables are there; settings are known to one of the commands, and pass its checks."""
    overrides = prepare(shlex.split(re.sub(r"<[^>]*>|\.\.\.", "x", filled_in(setting.text))))
    try:
        check_choices(overrides, Path(CONFIG_DIR))
    except UserError as refusal:
        assert "; here: " in str(refusal), refusal  # another template's, of which the page says the same
        return
    parsed = [PARSER.parse_override(override) for override in overrides]
    values = [override for override in parsed if not is_choice(override)]
    refusals = []
    for cfg in composed:
        refusal = refusal_of(cfg, values)
        if refusal is None:
            return
        refusals.append(refusal)
    pytest.fail("\n".join(refusals))


def is_choice(override: Override) -> bool:
    """Whether an override chooses an option of a group, which `check_choices` and tests/test_configs.py look at."""
    key = override.key_or_group
    return key.startswith("hydra/") or (PROJECT_ROOT / "configs" / key).is_dir()


def refusal_of(cfg: DictConfig, overrides: list[Override]) -> str | None:
    """What is wrong with settings in a composed configuration."""
    changed = copy.deepcopy(cfg)
    OmegaConf.set_struct(changed, True)
    try:
        for override in overrides:
            value = 0.01 if override.is_sweep_override() else override.value()
            OmegaConf.update(
                changed, override.key_or_group, value, force_add=override.is_add() or override.is_force_add()
            )
        with open_dict(changed):
            del changed.hydra
            if "callbacks" in changed:
                changed.callbacks.pop("pruning", None)  # says what Hydra says of itself while it runs
        check_config(changed)
    except (UserError, OmegaConfBaseException) as refusal:
        return str(refusal)
    return None


def test_pages_have_commands() -> None:
    """The patterns above find what a reader sees."""
    found = {command.text for command in COMMANDS}
    assert {"make train", "python train.py", "make new NAME=leaf_sorter DEST=../leaf_sorter"} <= found
    assert len(COMMANDS) > 30 and len(SETTINGS) > 60


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_packages_that_are_to_be_installed_are_locked(page: Path) -> None:
    lock = (PROJECT_ROOT / "requirements-dev.lock").read_text()
    for packages in re.findall(r"uv pip install ([\w\- ]+)", page.read_text()):
        assert all(f"\n{name}==" in lock for name in packages.split())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_project_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|mailto:)([^)#\s]+)", page.read_text()):
        assert (page.parent / target).exists(), target
