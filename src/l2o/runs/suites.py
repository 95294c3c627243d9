"""The tasks of a suite and the optimizers that meet there, from a configuration."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from l2o.evaluation.scoreboard import REFERENCE, Task
from l2o.optimizees import Optimizee
from l2o.optimizees.held_out import held_out_for
from l2o.optimizers import HandDesigned, UpdateRule
from l2o.runs.contents import hash_of, problem_contents

log = logging.getLogger(__name__)


class Contestant(NamedTuple):
    """Hold an optimizer of the scoreboard with the learning rates, or scales of its updates, that it is run at."""

    rule: UpdateRule
    rates: tuple[float, ...]
    baseline: bool


@dataclass(frozen=True)
class Suite:
    """Hold everything that a run on a suite has built: tasks with their configurations as text, and optimizers."""

    cfg: DictConfig
    name: str
    tasks: dict[str, tuple[Task, str]]
    contestants: dict[str, Contestant]
    envelopes: dict[str, Any]
    device: str

    def setting(self, name: str) -> Any:
        """Return what the suite's file says under a name; None where it says nothing, and for a map."""
        return (self.cfg.get("suite") or {}).get(name)


def rates_around(centre: float, count: int, per_decade: int = 2) -> tuple[float, ...]:
    """Return `count` learning rates, evenly spaced in their logarithms, of which `centre` is in the middle.

    With two in a decade they are …, 1e-3, 10^-2.5, 1e-2, …. They lie on one lattice for all baselines, so that `centre`
    may be rounded: 0.0316 means 10^-1.5.
    """
    if not centre > 0 or count < 1 or per_decade < 1:
        given = f"got {centre}, {count} and {per_decade}"
        raise ValueError(f"a grid of learning rates needs a positive centre, a count and a number per decade, {given}")
    middle = round(per_decade * math.log10(centre))
    return tuple(10 ** ((middle + k - count // 2) / per_decade) for k in range(count))


def open_tasks(cfg: DictConfig, device: str) -> dict[str, tuple[Task, str]]:
    """Return the tasks of `cfg.suite` by name, each with its optimizee's configuration as JSON text, for `built`.

    A task that `cfg.suite.held_out` holds out is never seen, whatever it says of itself: images of another size, for
    example, may make it so.
    """
    found, moved = {}, []
    for name, node in cfg.suite.tasks.items():
        if node is None:  # left out on the command line: suite.tasks.NAME=null
            continue
        horizons = tuple(sorted(set(node.horizons)))
        text = OmegaConf.to_yaml(node.optimizee, resolve=True)
        optimizee = built(text, device)
        content = problem_contents(_without_paths(node.optimizee), optimizee)
        held_out = held_out_for(optimizee, cfg.suite.get("held_out") or ())
        if node.related and held_out:
            moved.append(f"{name} ({' and '.join(held_out)})")
        described = str(node.get("description") or "")
        published = node.get("published")
        digest = None if content is None else hash_of(content)
        related = node.related and not held_out
        found[str(name)] = Task(str(name), horizons, related, described, published, digest), text
    if moved:
        log.warning("never seen, because they are held out of training as they are here: %s", ", ".join(moved))
    return found


@lru_cache(maxsize=2)
def built(text: str, device: str) -> Optimizee:
    """Return the optimizee of a configuration, moved to a device, with the tasks of its split "test".

    It is built under a fixed seed, so that two processes build it alike whatever a network draws for itself.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        optimizee = instantiate(OmegaConf.create(text))
    if not isinstance(optimizee, Optimizee):
        raise ValueError(f"suite.tasks: an optimizee must be an l2o Optimizee, got {type(optimizee).__name__}")
    return optimizee.to(device).split("test")


def open_baselines(cfg: DictConfig) -> dict[str, Contestant]:
    """Return the baselines of `cfg.scoreboard`. Raises ValueError where Adam is missing, or one has no rate."""
    found = {}
    for name, node in cfg.scoreboard.baselines.items():
        if node is None:
            continue
        rule = instantiate(node.rule)
        if not isinstance(rule, HandDesigned):
            raise ValueError(
                f"scoreboard.baselines.{name}.rule must be a hand-designed rule, whose learning rate is tuned, got "
                f"{type(rule).__name__}: give a trained one as learned.{name}=PATH"
            )
        rates = rates_around(node.centre, cfg.scoreboard.rates_count, cfg.scoreboard.rates_per_decade)
        found[str(name)] = Contestant(rule, rates, True)
    if REFERENCE not in found:
        raise ValueError(f"scoreboard.baselines needs {REFERENCE}: final losses are shown relative to it")
    return found


def with_scales(cfg: DictConfig, rules: Mapping[str, UpdateRule]) -> dict[str, Contestant]:
    """Return learned optimizers with the scales of `cfg.scoreboard`."""
    scales = tuple(float(scale) for scale in cfg.scoreboard.scales)
    return {name: Contestant(rule, scales, False) for name, rule in rules.items()}


def _without_paths(node: DictConfig) -> DictConfig:
    """Return a configuration without where its files lie: their contents are part of the hash, their places are not."""
    pruned = OmegaConf.create(_pruned(OmegaConf.to_container(node, resolve=True)))
    assert isinstance(pruned, DictConfig)
    return pruned


def _pruned(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _pruned(item) for key, item in value.items() if key not in ("path", "root", "download")}
    return [_pruned(item) for item in value] if isinstance(value, list) else value
