"""The values that a sweep will set, in configurations that can be checked before anything starts."""

from collections.abc import Iterator
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from omegaconf import DictConfig, OmegaConf

from l2o.runs.command_line.read_keys import compose


def configurations(cfg: DictConfig, loader: Any) -> Iterator[DictConfig]:
    """Configurations of runs of a sweep in which every value of every key occurs at least once.

    The first has the first value of every key. Each other one changes one key of it: as many as there are values, not
    as there are runs.
    """
    overrides = list(_last_of_each(_overrides(cfg, loader)))
    for override in overrides:
        _refuse(override, cfg)
    values = [_values(override) for override in overrides]
    first = [words[0] for words in values]
    given = list(cfg.hydra.overrides.hydra)
    name = cfg.hydra.job.config_name
    base = compose(loader, name, given + first)
    yield base
    for index, (override, words) in enumerate(zip(overrides, values, strict=True)):
        for word in words[1:]:
            if _is_plain(override, base):
                yield _changed(base, override, word)
            else:
                yield compose(loader, name, [*given, *first[:index], word, *first[index + 1 :]])


def _overrides(cfg: DictConfig, loader: Any) -> list[Override]:
    """What the sweeper's config sets, then what the command line does."""
    words = []
    for table in ("hydra.sweeper.params", "sweep.space"):
        node = OmegaConf.select(cfg, table)
        words += [f"{key}={value}" for key, value in node.items()] if isinstance(node, DictConfig) else []
    return OverridesParser.create(config_loader=loader).parse_overrides([*words, *cfg.hydra.overrides.task])


def _refuse(override: Override, cfg: DictConfig) -> None:
    """Raise ValueError for a word of which no sweep can be made."""
    key, line = override.get_key_element().lstrip("+~"), override.input_line
    if key == "sweep.space" or key.startswith("sweep.space."):
        raise ValueError(
            f"{line}: give what is searched by its own name, as learner.meta_optimizer.lr=interval(0.001,0.1); a plain "
            "value, as learner.meta_optimizer.lr=0.01, takes a key out of the search"
        )
    if isinstance(override.value(), IntervalSweep) and not OmegaConf.select(cfg, "sweep"):
        raise ValueError(f"{line}: an interval is for a search: add sweep=meta_lr, or give values, as {key}=0.1,0.2")


def _last_of_each(overrides: list[Override]) -> list[Override]:
    """A later override of a key takes the place of an earlier one."""
    return list({override.get_key_element().lstrip("+~"): override for override in overrides}.values())


def _values(override: Override) -> list[str]:
    """An override as the runs of the sweep get it; the two ends of an interval."""
    if not override.is_sweep_override():
        return [override.input_line or ""]
    key, value = override.get_key_element(), override.value()
    if isinstance(value, IntervalSweep):
        ends = [end for end in (value.start, value.end) if end is not None]
        whole = all(isinstance(end, int) for end in ends)
        return [f"{key}={end if whole else float(end)}" for end in ends]
    try:
        words = [f"{key}={word}" for word in override.sweep_string_iterator()]
    except ValueError as error:
        raise ValueError(f"{override.input_line}: {error}") from error
    if not words:
        raise ValueError(f"{override.input_line} has no value to run")
    return words


def _is_plain(override: Override, cfg: DictConfig) -> bool:
    """Whether an override sets one key and chooses no option of a group."""
    loader, key = override.config_loader, override.key_or_group
    return not (override.package or (loader is not None and loader.get_group_options(key))) and (
        OmegaConf.select(cfg, key, throw_on_missing=False) is not None
    )


def _changed(base: DictConfig, override: Override, word: str) -> DictConfig:
    """A copy of a configuration with one key set as a word of the command line says."""
    changed = base.copy()
    value = OverridesParser.create().parse_override(word).value()
    OmegaConf.update(changed, override.key_or_group, value, merge=True, force_add=True)
    return changed
