"""What a run that goes on from a checkpoint may change, and what it must keep."""

from collections.abc import Mapping
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from image_classifier.engine.errors import UserError
from image_classifier.engine.project import PROJECT_ROOT
from image_classifier.engine.secrets import is_secret
from image_classifier.engine.terminal import say

# Of the settings of the data: those that change neither the images nor which of them are held out.
FREE = (
    *(
        "data.root",
        "data.batch_size",
        "data.eval_batch_size",
        "data.augmentation",
        "data.mirror",
        "data.mix",
        "data.sampling",
    ),
    *("data.device", "data.in_memory", "data.num_workers", "data.on_error", "data.cache"),
)
# Of the model: what the weights, the optimizer's state and the best score so far belong to.
FIXED = ("model.net", "model.optimizer._target_", "model.scheduler._target_", "monitor.metric", "monitor.mode")
MISSING = "nothing"


def check_resumable(cfg: DictConfig, checkpoint: Mapping[str, Any]) -> None:
    """Refuse what would change the images, the split, the network or the best score of the run; tell the rest.

    Raises:
        UserError: The settings are those of another run, or there are fewer epochs to train than are done.
    """
    if "optimizer_states" not in checkpoint:
        raise UserError(
            f"expected a checkpoint from which a training can go on but found only the weights in {cfg.ckpt_path} "
            "(callbacks.model_checkpoint.save_weights_only); take the last.ckpt beside it, or begin anew with its "
            f"weights: model.init_from={cfg.ckpt_path}"
        )
    recipe = checkpoint["recipe"]
    wanted = recipe_settings(OmegaConf.to_container(cfg, resolve=True))
    changes = differences(recipe_settings(recipe), wanted)
    refused = [
        key for key in changes if within(key, FIXED) or (within(key, ("seed", "data")) and not within(key, FREE))
    ]
    if "seed" in refused:
        refused = [key for key in refused if key != "data.seed"]  # the same setting, said once
    if refused:
        raise UserError(
            f"expected to go on with {listed((key, changes[key][0]) for key in refused)} as {cfg.ckpt_path} was "
            f"trained but found {listed((key, changes[key][1]) for key in refused)}; "
            "repeat the overrides of the first run (its config.yaml has them), or start a new run"
        )
    done = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
    epochs = cfg.trainer.max_epochs
    if epochs is not None and 0 <= epochs < done:
        raise UserError(
            f"expected trainer.max_epochs to be at least {done}, the epochs that {cfg.ckpt_path} has, "
            f"but found {epochs}"
        )
    if told := [key for key in changes if key != "data.root"]:
        was = ", ".join(f"{key}={changes[key][1]} (was {changes[key][0]})" for key in told)
        say(f"Going on with other settings than {cfg.ckpt_path}: {was}")


def adopt(cfg: DictConfig, checkpoint: Mapping[str, Any]) -> None:
    """With train=false: take data, model and seed from the checkpoint, so that config.yaml says what ran.

    Raises:
        UserError: The command line asks for others.
    """
    recipe = checkpoint["recipe"]
    changes = differences(recipe_settings(recipe), recipe_settings(OmegaConf.to_container(cfg, resolve=True)))
    for key, text in typed_overrides().items():
        if within(key, ("data", "model", "seed")) and any(within(changed, (key,)) for changed in changes):
            raise UserError(
                f"expected the data, model and seed of {cfg.ckpt_path}, which train=false tests, but found {text}; "
                "leave it out, or test other pictures: python eval.py ckpt_path=... data.root=DIR"
            )
    with open_dict(cfg):
        for part in ("data", "model", "monitor", "seed"):
            if part in recipe:
                cfg[part] = recipe[part]
        cfg.metrics = {**recipe.get("metrics", {}), **(cfg.get("metrics") or {})}
        if cfg.data.get("root") is not None:
            cfg.data.root = str(PROJECT_ROOT / cfg.data.root)


def recipe_settings(source: Any) -> dict[str, Any]:
    """Those settings of a run that its recipe has too, under flat keys."""
    parts = {part: source[part] for part in ("data", "model", "monitor", "seed") if source.get(part) is not None}
    flat = flatten(parts)
    flat.pop("model.monitor", None)  # interpolated from monitor.*
    flat.pop("model.monitor_mode", None)
    return {key: value for key, value in flat.items() if not is_secret(key)}  # a checkpoint has none


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings under dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def differences(saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Settings that differ, as (saved, wanted). Null and a key that is not there are the same."""
    keys = dict.fromkeys((*saved, *wanted))
    return {
        key: (saved.get(key, MISSING), wanted.get(key, MISSING)) for key in keys if saved.get(key) != wanted.get(key)
    }


def within(key: str, prefixes: tuple[str, ...]) -> bool:
    return any(key == prefix or key.startswith(f"{prefix}.") for prefix in prefixes)


def listed(settings: Any) -> str:
    return ", ".join(f"{key}={value}" for key, value in settings)


def typed_overrides() -> dict[str, str]:
    """What the command line sets, by key; empty outside a command."""
    if not HydraConfig.initialized():
        return {}
    pairs = ((text.lstrip("+~").partition("="), text) for text in HydraConfig.get().overrides.task)
    return {key.partition("@")[0]: text for (key, _, _), text in pairs}
