"""Which keys a program reads. A key that it does not read would have no effect: it is refused."""

import re
import shlex
from collections.abc import Iterator
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from l2o.runs.command_line.nearest import did_you_mean

FREE = ("learned", "baselines", "logger", "evaluation_optimizee", "sweep.space", "hydra")
FREE = (*FREE, "suite.tasks", "suite.compare_with", "suite.beyond", "scoreboard.baselines")
"""Keys that a user may add, and names of their own under them; what these say is checked where it is used."""

OPTIONAL = {"dataset", "preprocessing", "meta_gradient", "evaluation", "logger", "baselines", "proposals", "learned"}
"""Keys that a configuration may lack, if nothing else refers to them."""

NULL_AT_FIRST = {"train": {"sweep", "objective"}, "evaluate": {"suite", "map"}}
"""Groups of each program of which no option is chosen by default, so that its own configuration lacks their keys."""


_BASES: dict[tuple[str, tuple[str, ...]], DictConfig] = {}
"""The programs' own configurations, by name and search path."""


def compose(loader: Any, config_name: str | None, overrides: list[str]) -> DictConfig:
    """A configuration as Hydra composes it for one run."""
    return loader.load_configuration(config_name, overrides, RunMode.RUN)


def compose_base(loader: Any, config_name: str) -> DictConfig:
    """A program's configuration without overrides, to read only: a process composes it once for a search path."""
    place = (config_name, tuple(str(entry) for entry in loader.get_search_path().get_path()))
    if place not in _BASES:
        _BASES[place] = compose(loader, config_name, [])
    return _BASES[place]


def program_of(cfg: DictConfig) -> str:
    """The program that a configuration is for: train or evaluate."""
    return OmegaConf.select(cfg, "hydra.callbacks.preflight.program") or "train"


def keys_of(cfg: DictConfig) -> list[str]:
    """Every key of a configuration with its dots, those of nodes included; not Hydra's own."""
    return [key for key in _walk(OmegaConf.to_container(cfg, resolve=False)) if key.split(".")[0] != "hydra"]


def refuse_unread(cfg: DictConfig, loader: Any, unread: tuple[str, ...] = ()) -> set[str]:
    """Raise ValueError for a key that the program does not read, with the nearest one that it reads; return the first
    parts of the keys that it reads.

    What an experiment sets for the other program is fine: experiments serve both. What a user sets on the command line
    for it is not. `unread` names groups that are composed for experiments alone.
    """
    program = program_of(cfg)
    base = compose_base(loader, program)
    read = {str(key) for key in base} - set(unread)
    missing = next(iter(sorted(read - {str(key) for key in cfg} - OPTIONAL)), None)
    if missing:
        raise ValueError(
            f"{program}.py needs '{missing}', which this command line or config leaves out or sets to null"
        )
    other = _other(program, loader)
    read |= NULL_AT_FIRST[program]
    known = [key for key in keys_of(base) if key.split(".")[0] in read]
    for override in OverridesParser.create(config_loader=loader).parse_overrides(list(cfg.hydra.overrides.task)):
        _refuse_override(override, cfg, program, read, other, known)
    for key in map(str, cfg):
        if key not in read | other and not _is_referred_to(cfg, key):
            raise ValueError(f"{program}.py reads no '{key}' of your configs{did_you_mean(key, sorted(read | other))}")
    return read


def _other(program: str, loader: Any) -> set[str]:
    """The keys that the other program reads."""
    other = "evaluate" if program == "train" else "train"
    return {str(key) for key in compose_base(loader, other)} | set().union(*NULL_AT_FIRST.values())


def _refuse_override(
    override: Override, cfg: DictConfig, program: str, read: set[str], other: set[str], known: list[str]
) -> None:
    place = _place(override)
    if place is None or override.is_delete():
        return
    top = place.split(".")[0]
    given = shlex.quote(override.input_line or place)
    if top not in read and top in other:
        reader = "evaluate" if program == "train" else "train"
        raise ValueError(f"{given} has no effect: {reader}.py reads {place}, {program}.py does not")
    added = override.is_add() or override.is_force_add()
    if top in read and (not added or _may_be_added(cfg, place, known)):
        return
    if not _is_referred_to(cfg, top):
        hint = did_you_mean(place, [*known, *keys_of(cfg)] if top in read else known)
        raise ValueError(f"{given} has no effect: {program}.py reads no key {place}{hint}")


def _place(override: Override) -> str | None:
    """The key that an override sets; None for a group that sets several, as experiment does."""
    key = override.key_or_group
    if override.package is not None:
        return override.package
    loader = override.config_loader
    if loader is not None and "." not in key and loader.get_group_options(key):
        return None if key in _GLOBAL or "/" in key else key
    return key


_GLOBAL = {"experiment", "figure", "launcher", "suite", "map"}


def _may_be_added(cfg: DictConfig, place: str, known: list[str]) -> bool:
    """Whether something reads a key that is not in the configs: a `_target_` above it, or a table of free names."""
    if place in known or any(place == free or place.startswith(f"{free}.") for free in FREE):
        return True
    parents = [place.rsplit(".", count)[0] for count in range(1, place.count(".") + 1)]
    nodes = (OmegaConf.select(cfg, parent) for parent in parents)
    return any(isinstance(node, DictConfig) and "_target_" in node for node in nodes)


def _is_referred_to(cfg: DictConfig, key: str) -> bool:
    """Whether another value of the configuration is taken from a key, as in `${width}`."""
    text = OmegaConf.to_yaml(OmegaConf.masked_copy(cfg, [str(name) for name in cfg if name != "hydra"]), resolve=False)
    return re.search(rf"\$\{{(oc\.select:)?{re.escape(key)}[.,\[}}]", text) is not None


def _walk(value: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield f"{prefix}{key}"
            yield from _walk(item, f"{prefix}{key}.")
