"""Makes bad command lines of every kind from a seed: what people mistype, leave out, or believe to be there."""

import random
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from image_classifier.engine.launch.checks import CHECKS
from image_classifier.engine.launch.resume import flatten
from image_classifier.engine.project import CONFIG_DIR
from tiny import TINY

COMMANDS = ("train", "evaluate", "predict", "export", "multirun")
CONFIGS = {"train": "train", "multirun": "train", "evaluate": "eval", "predict": "predict", "export": "export"}
GROUPS = ("data", "model", "trainer", "logger", "callbacks", "confusion_matrix", "debug", "experiment", "sweep")

# Settings that cannot be, of a training; each alone is wrong.
OF_TRAINING = (
    *("seed=null", "seed=-1", "seed=abc", "train=perhaps", "test=2", "data=null", "model=null", "trainer=null"),
    *("data.batch_size=null", "data.num_classes=null", "data.num_samples=null", "data.image_size=null"),
    *("model.net=null", "model.net._target_=null", "model.net._target_=os.system", "model.net._target_=torch.nope"),
    *("model.net.hidden_sizes=null", "model.net.hidden_sizes=[-1]", "model.net.hidden_sizes=many"),
    *("+model.net.depth=3", "+model.net.unknown={a: 1}", "model.optimizer=null", "model.optimizer.lr=null"),
    *("model.optimizer._target_=torch.optim.Nope", "model.optimizer._target_=subprocess.run"),
    *("model.optimizer.weight_decay=-1", "+model.optimizer.betas=[2,3]", "+model.optimizer.momentum=2"),
    *("model.scheduler._target_=torch.optim.lr_scheduler.Nope", "model.scheduler_interval=hour"),
    *("trainer.max_epochs=null", "trainer.max_epochs=0", "trainer.max_epochs=-2", "trainer.max_epochs=1.5"),
    *("trainer.devices=0", "trainer.devices=-3", "trainer.devices=null", "trainer.devices=two", "trainer.devices=[9]"),
    *("trainer.accelerator=gpu", "trainer.accelerator=quantum", "trainer.accelerator=null", "trainer.strategy=nope"),
    *("trainer.precision=8-bit", "trainer.precision=fast", "trainer.num_nodes=2"),
    *("trainer.gradient_clip_val=-1", "trainer.gradient_clip_val=much", "+trainer.gradient_clip_algorithm=median"),
    *("trainer.accumulate_grad_batches=0", "trainer.accumulate_grad_batches=-1", "trainer.log_every_n_steps=-5"),
    *("trainer.limit_train_batches=-1", "trainer.limit_val_batches=1.5", "+trainer.val_check_interval=0"),
    *("+trainer.val_check_interval=1.5", "+trainer.val_check_interval=-1", "+trainer.check_val_every_n_epoch=0"),
    *("+trainer.max_steps=-7", "+trainer.max_time=soon", "+trainer.unknown=1", "trainer.profiler=nope"),
    *("trainer.num_sanity_val_steps=-3", "+trainer.min_epochs=-1", "+trainer.overfit_batches=-1"),
    *("monitor.metric=val/f1", "monitor.metric=acc", "monitor.metric=null", "monitor.mode=up", "monitor.mode=min"),
    *("callbacks.early_stopping.patience=-1", "callbacks.early_stopping.patience=soon"),
    *("callbacks.early_stopping.monitor=val/nope", "callbacks.early_stopping.mode=up"),
    *("callbacks.model_checkpoint.save_top_k=-2", "callbacks.model_checkpoint.save_top_k=few"),
    *("callbacks.last_checkpoint.every_minutes=-1", "callbacks.last_checkpoint.every_minutes=often"),
    *("+callbacks.mine={_target_: nowhere.Mine}", "+callbacks.mine={_target_: torch.nn.Linear}", "+callbacks.mine=3"),
    *("confusion_matrix.forms=[picture]", "confusion_matrix.forms=image", "confusion_matrix.stages=[tset]"),
    *("confusion_matrix.stages=val", "confusion_matrix.normalize=rows", "confusion_matrix.every_n_epochs=0"),
    *("confusion_matrix.max_cells=-1", "logger=[tensorboard,nope]", "logger=wandb logger.wandb.mode=sometimes"),
    *("+logger.mine={_target_: nowhere.Logger}", "logger=tensorboard +logger.tensorboard.unknown=1"),
    *("data=image_folder data.root=/nowhere/at/all", "data=image_folder data.root=", "data.val_size=2.0"),
    *("+data.unknown=1", "data._target_=null", "data._target_=image_classifier.data.nope.Nope", "data.num_workers=-1"),
    *("ckpt_path=none.ckpt", "ckpt_path=FOREIGN", "ckpt_path=DIRECTORY", "train=false", "ckpt_path=[a,b]"),
    *("resume=nowhere", "resume=DIRECTORY", "resume=", "resume=TRAINED ckpt_path=CHECKPOINT", "resume=3"),
    *("ckpt_path=CHECKPOINT data.num_classes=5", "ckpt_path=CHECKPOINT trainer.max_epochs=1"),
    *("ckpt_path=CHECKPOINT model.optimizer._target_=torch.optim.SGD", "ckpt_path=CHECKPOINT seed=9"),
    *("model.loss._target_=torch.nn.Nope", "model.loss.label_smoothing=2", "+metrics.f1=3", "metrics=f1"),
    *("+metrics.f1={_target_: torchmetrics.Nope}", "+metrics.f1={_target_: torch.nn.Linear}", "model.init_from=none"),
    *("model.freeze=[nothing_like_this]", "model.freeze=net", "model.lr_factors={nope: 0.1}", "shortcuts=maybe"),
    *("objectives={val/nope: max}", "objectives={val/acc: min}", "objectives=3"),
    *("hydra.job.name=[", "hydra/launcher=nope", "monitor.metric=3"),
)
OF_CHECKPOINTS = (
    *("ckpt_path=none.ckpt", "ckpt_path=FOREIGN", "ckpt_path=DIRECTORY", "ckpt_path=", "ckpt_path=null"),
    *("ckpt_path=[CHECKPOINT]", "ckpt_path=3", "+unknown=1 unknown2=2", "ckpt_path=TEXT", "ckpt_path=EMPTY"),
)
OF_COMMAND = {
    "evaluate": (
        *("data.root=/nowhere", "data.root=DIRECTORY", "data.eval_batch_size=0", "data.eval_batch_size=-4"),
        *("data.eval_batch_size=many", "trainer.precision=fast", "trainer.accelerator=gpu", "trainer.devices=0"),
        *("trainer.limit_test_batches=-1", "metrics=f1", "+metrics.f1={_target_: torchmetrics.Nope}", "seed=null"),
        *("confusion_matrix.stages=[tset]", "confusion_matrix.forms=[picture]", "logger=nope", "model=cnn", "train=1"),
    ),
    "predict": (
        *("input=/nowhere", "input=", "input=null", "input=EMPTY_DIRECTORY", "batch_size=-4", "batch_size=0"),
        *("batch_size=null", "batch_size=many", "top_k=0", "top_k=-1", "top_k=all", "decode_threads=-1"),
        *("output=DIRECTORY", "output=", "output=null", "output=a.xyz", "output=/proc/none/a.csv", "top_k=null"),
        *("decode_threads=few", "trainer.devices=2", "trainer.precision=fast", "trainer.accelerator=gpu", "seed=abc"),
        *("input=3", "batch_size=1.5"),
    ),
    "export": (
        *("output=a.xyz", "output=/proc/none/a.onnx", "check_images=0", "check_images=-1", "check_images=null"),
        *("check_images=all", "input=/nowhere", "input=EMPTY_DIRECTORY", "data.root=/nowhere", "output=3.txt"),
    ),
    "multirun": (
        *("sweep=nope", "seed=abc,1", "data.batch_size=0,16", "hydra.sweep.dir=", "resume=TRAINED"),
        *("trainer.max_epochs=0,1", "hydra/launcher=nope", "monitor.metric=acc,loss", "model=null", "seed=null,1"),
        *("callbacks.early_stopping.patience=-1,2", "trainer.precision=8-bit,32-true", "monitor.mode=up,max"),
    ),
}
# Lines that Hydra's grammar cannot read, or that name nothing.
GARBLED = (
    *(
        "=3",
        "trainer.max_epochs",
        "a=b=c=[",
        "data.batch_size=[1",
        "seed='1",
        "++",
        "~",
        "seed=${nope}",
        "seed=${",
        "-x",
    ),
    *("--unknown", "trainer.max_epochs==3", "trainer..max_epochs=3", ".seed=1", "seed:3", "model.net.hidden_sizes=[1,"),
    *("hydra.run.dir=", "hydra.run.dir=null", "hydra.run.dir=TEXT", "hydra.run.dir=/proc/none", "--config-name=nope"),
)


class BadLine(NamedTuple):
    """A command line that must be refused."""

    command: str  # of COMMANDS
    arguments: list[str]  # with words in capitals for `Places`


def keys_of(config_name: str) -> list[str]:
    with initialize_config_dir(CONFIG_DIR):
        tiny = TINY if config_name == "train" else ()
        cfg: DictConfig = compose(config_name, overrides=list(tiny))
    from omegaconf import OmegaConf

    return sorted(flatten(OmegaConf.to_container(cfg, resolve=False)))  # type: ignore[arg-type]


def mistyped(word: str, generator: random.Random) -> str:
    """A word with one mistake: a letter left out, doubled, exchanged with its neighbour, or another one."""
    position = generator.randrange(len(word))
    letter = generator.choice(string.ascii_lowercase)
    changed = generator.choice(
        (
            word[:position] + word[position + 1 :],
            word[:position] + word[position] + word[position:],
            word[:position] + word[position + 1 : position + 2] + word[position] + word[position + 2 :],
            word[:position] + letter + word[position + 1 :],
        )
    )
    return changed if changed != word and changed else word + letter


def bad_lines(seed: int, count: int) -> list[BadLine]:
    """Command lines over all commands, the same for the same seed, no two alike.

    Args:
        seed: Any number.
        count: How many.
    """
    generator = random.Random(seed)
    keys = {name: keys_of(name) for name in set(CONFIGS.values())}
    lines: dict[tuple[str, ...], BadLine] = {}
    kinds: tuple[Callable[..., list[str] | None], ...] = (
        typo_in_key,
        typo_in_option,
        wrong_value,
        wrong_setting,
        garbled,
    )
    while len(lines) < count:
        command = generator.choice(COMMANDS)
        kind = generator.choices(kinds, (3, 2, 3, 8, 1))[0]
        arguments = kind(command, generator, keys[CONFIGS[command]])
        if arguments:
            lines.setdefault((command, *arguments), BadLine(command, arguments))
    return list(lines.values())


def typo_in_key(command: str, generator: random.Random, keys: list[str]) -> list[str] | None:
    parts = generator.choice(keys).split(".")
    place = generator.randrange(len(parts))
    parts[place] = mistyped(parts[place], generator)
    key = ".".join(parts)
    known = any(other == key or other.startswith(f"{key}.") for other in keys)
    return None if known or not key.replace(".", "").isidentifier() else [f"{key}=1"]


def typo_in_option(command: str, generator: random.Random, keys: list[str]) -> list[str] | None:
    group = generator.choice(GROUPS)
    options = sorted(path.stem for path in Path(CONFIG_DIR, group).glob("*.yaml"))
    option = mistyped(generator.choice(options), generator)
    if option in options or (CONFIGS[command] != "train" and group not in ("trainer", "confusion_matrix")):
        return None
    return None if CONFIGS[command] in ("predict", "export") else [f"{group}={option}"]


def wrong_value(command: str, generator: random.Random, keys: list[str]) -> list[str] | None:
    there = [key for key in CHECKS if key in keys]
    key = generator.choice(there)
    values: list[Any] = ["-17", "abc", "[1,2,{a: 3}]", "1e99", "true_or_false", "{a: 1}", "-0.5"]
    value = generator.choice(values)
    check = CHECKS[key]
    from hydra.core.override_parser.overrides_parser import OverridesParser

    read = OverridesParser.create().parse_override(f"x={value}").value()
    return None if check.accepts(read) else [f"{key}={value}"]


def wrong_setting(command: str, generator: random.Random, keys: list[str]) -> list[str] | None:
    if command in ("train", "multirun"):
        chosen = OF_TRAINING if command == "train" else OF_COMMAND["multirun"]
    else:
        chosen = OF_CHECKPOINTS if generator.random() < 0.3 else OF_COMMAND[command]
    return split(generator.choice(chosen))


def garbled(command: str, generator: random.Random, keys: list[str]) -> list[str] | None:
    return [generator.choice(GARBLED)]


def split(text: str) -> list[str]:
    """Overrides, separated by a space before a key; braces may hold spaces."""
    words: list[str] = []
    for word in text.split(" "):
        if words and words[-1].count("{") > words[-1].count("}"):
            words[-1] += f" {word}"
        else:
            words.append(word)
    return words
