"""Configurations that differ only in values, composed from the files once.

Hydra composes each anew, those of a sweep's jobs twice, and that takes longer than a small job's report. Here the first
is composed without the values that were asked for; each then gets its own, in a copy.
"""

import contextlib
import copy
import os
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import lru_cache
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict

KEPT = 16  # templates, the latest used
by_hydra = ConfigLoaderImpl.load_sweep_config
templates: OrderedDict[Hashable, DictConfig] = OrderedDict()


def compose_jobs_once() -> None:
    """Have Hydra's launchers and sweepers, in this process, compose jobs from templates."""
    ConfigLoaderImpl.load_sweep_config = load_sweep_config  # type: ignore[method-assign]


def load_sweep_config(self: ConfigLoaderImpl, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
    """What Hydra's own returns."""

    def whole(overrides: Sequence[str]) -> DictConfig:
        return by_hydra(self, master_config, list(overrides))

    source = master_config.hydra.job.config_name, tuple(master_config.hydra.overrides.hydra)
    cfg = from_template(self, source, sweep_overrides, whole)
    if cfg is None:
        return whole(sweep_overrides)
    with open_dict(cfg.hydra.overrides):
        cfg.hydra.overrides.task = [line for line in sweep_overrides if not parsed(line).is_hydra_override()]
    OmegaConf.copy_cache(from_config=master_config, to_config=cfg)
    return cfg


def from_template(
    loader: ConfigLoaderImpl,
    source: Hashable,
    overrides: Sequence[str],
    compose: Callable[[Sequence[str]], DictConfig],
) -> DictConfig | None:
    """Compose a configuration by setting values in a copy of a template.

    Args:
        loader: Knows the groups.
        source: What else the configuration depends on.
        overrides: As Hydra takes them.
        compose: Composes a template from overrides.

    Returns:
        The configuration, or None where that might be another one than Hydra's, or Hydra has something against it.
    """
    try:
        read = [parsed(line) for line in overrides]
        applied = [override for override in read if not chooses_file(override, loader)]  # to what the files say
        values = [override for override in applied if sets_value(override)]
        if not independent(values, applied):
            return None
        places = tuple((place.provider, place.path) for place in loader.config_search_path.get_path())
        shape = tuple(line for line, override in zip(overrides, read, strict=True) if override not in values)
        template = source, places, stamps(path for _, path in places), os.getcwd(), shape  # noqa: PTH109
        if template not in templates:
            templates[template] = copy.deepcopy(compose(shape))
        templates.move_to_end(template)
        if len(templates) > KEPT:
            templates.popitem(last=False)
        cfg = copy.deepcopy(templates[template])
        if OmegaConf.select(cfg, "hydra.job.env_copy"):  # variables as they are now
            return None
        if not all(is_setting(cfg, override.key_or_group) for override in values):
            return None
        ConfigLoaderImpl._apply_overrides_to_config(values, cfg)
    except HydraException:  # which all overrides together tell best
        return None
    return cfg


def stamps(places: Iterable[str]) -> tuple[tuple[str, int, int], ...]:
    """The configuration files in directories, with what changes when one is edited; takes a millisecond."""
    found = []
    waiting = [place.removeprefix("file://") for place in places if place.startswith("file://") or "://" not in place]
    for directory in waiting:
        with contextlib.suppress(FileNotFoundError), os.scandir(directory) as entries:
            for entry in entries:
                if entry.is_dir():
                    waiting.append(entry.path)
                elif entry.name.endswith((".yaml", ".yml")):
                    state = entry.stat()
                    found.append((entry.path, state.st_mtime_ns, state.st_size))
    return tuple(sorted(found))


@lru_cache(maxsize=4096)
def parsed(line: str) -> Override:
    return OverridesParser.create().parse_override(line)


def chooses_file(override: Override, loader: ConfigLoaderImpl) -> bool:
    """Whether an override names a group or a file, as Hydra decides it."""
    if override.is_value_path or isinstance(override.value(), dict):
        return False
    key = override.key_or_group
    return loader.repository.group_exists(key) or (override.is_delete() and loader.repository.config_exists(key))


def sets_value(override: Override) -> bool:
    """Whether an override sets a setting that is there to a single value, as far as its text tells."""
    return (
        override.type == OverrideType.CHANGE
        and override.package is None
        and not override.is_value_path
        and not override.is_sweep_override()
        and not override.is_hydra_override()
        and isinstance(override.value(), str | int | float | None)
    )


def independent(values: Sequence[Override], overrides: Sequence[Override]) -> bool:
    """Whether overrides lead to the same configuration when these are applied after all others."""
    if any(override.is_delete() and override.value_type is not None for override in overrides):
        return False  # it depends on a value whether that one deletes
    pairs = ((place_of(value), place_of(other)) for value in values for other in overrides if other is not value)
    return not any(overlap(first, second) for first, second in pairs)


def place_of(override: Override) -> list[str]:
    return override.key_or_group.replace("[", ".").replace("]", "").split(".")


def overlap(first: list[str], second: list[str]) -> bool:
    return all(a == b for a, b in zip(first, second, strict=False))


def is_setting(cfg: DictConfig, key: str) -> bool:
    """Whether there is a setting under a key, which is no group of a further search path either."""
    node: Any = cfg
    for name in key.split("."):
        if not isinstance(node, DictConfig) or node._is_none() or node._is_missing() or node._is_interpolation():
            return False
        node = node._get_node(name, validate_access=False)
    return node is not None and ("." in key or not OmegaConf.is_config(node))
