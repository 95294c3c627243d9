"""What a suite, a scoreboard and a map must be told, checked before anything is built or written."""

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from l2o.runs.command_line.kinds import as_written, fits, in_words
from l2o.runs.command_line.nearest import did_you_mean

TASK = {"optimizee": dict, "horizons": list[int], "related": bool, "description": str | None, "published": str | None}
"""The keys of a task, and of what kind each is; the first three are needed."""

NEEDED = ("optimizee", "horizons", "related")

BASELINE = {"centre": float, "rule": dict}
"""The keys of a baseline: the middle of its learning rates, and what it is."""

PROPERTIES: dict[str, Any] = {"width": int, "depth": int, "horizon": int, "init_std": float}
"""What a map may vary: units of every hidden layer, hidden layers, steps, the standard deviation of θ_0."""


def refuse_suite_settings(cfg: DictConfig) -> None:
    """Raise ValueError, which names the key, for a suite, a scoreboard or a map that could only go wrong."""
    if cfg.get("suite") is None and cfg.get("map") is None:
        return
    if cfg.get("suite") is not None:
        _refuse_suite(_plain(cfg, "suite"))
    if cfg.get("map") is not None:
        _refuse_map(_plain(cfg, "map"))
    _refuse_scoreboard(_plain(cfg, "scoreboard"))
    if cfg.get("suite") is not None:
        _refuse_comparisons(_plain(cfg, "suite"), _plain(cfg, "scoreboard"))


def _refuse_suite(suite: Any) -> None:
    _refuse_kind("suite", suite, dict)
    _refuse_name("suite.name", suite.get("name", "suite"))
    tasks = suite.get("tasks") or {}
    _refuse_kind("suite.tasks", tasks, dict)
    if not any(task is not None for task in tasks.values()):
        raise ValueError(f"suite '{suite.get('name', '?')}' has no tasks to score on: give it some as suite.tasks.NAME")
    for name, task in tasks.items():
        if task is not None:  # null leaves a task out
            _refuse_table(f"suite.tasks.{name}", task, TASK, NEEDED)
            horizons = task["horizons"]
            if not horizons or min(horizons) < 1:
                message = f"suite.tasks.{name}.horizons must be numbers of steps, at least 1, got {horizons}"
                raise ValueError(message)


def _refuse_comparisons(suite: Any, scoreboard: Any) -> None:
    """Refuse baselines to compare with that there are not, and a factor of the horizon that goes nowhere beyond it."""
    names, beyond = suite.get("compare_with"), suite.get("beyond")
    _refuse_kind("suite.compare_with", names, list[str] | None)
    _refuse_kind("suite.beyond", beyond, float | None)
    there = [str(name) for name, node in scoreboard["baselines"].items() if node is not None]
    for name in names or ():
        if name not in there:
            hint = did_you_mean(name, there) or f": there are {', '.join(there)}"
            raise ValueError(f"suite.compare_with names {name}, which is no baseline of the scoreboard{hint}")
    if beyond is not None and not 1 < beyond <= 100:
        raise ValueError(
            f"suite.beyond must be more than 1, as a multiple of the horizon, and at most 100, got {beyond}"
        )
    if beyond is not None and not names:
        raise ValueError("suite.beyond has no effect without suite.compare_with: it is shown in the same table")


def _refuse_scoreboard(scoreboard: Any) -> None:
    baselines = scoreboard.get("baselines")
    _refuse_kind("scoreboard.baselines", baselines, dict)
    for name, baseline in baselines.items():
        if baseline is None:
            continue
        key = f"scoreboard.baselines.{name}"
        _refuse_table(key, baseline, BASELINE, BASELINE)
        if baseline["rule"].get("lr") is not None:
            raise ValueError(f"{key}.rule.lr has no effect: its learning rate is tuned, around {key}.centre")
        if not 1e-9 <= baseline["centre"] <= 1e9:
            raise ValueError(f"{key}.centre must be a learning rate from 1e-9 to 1e9, got {baseline['centre']}")
    if scoreboard["rates_count"] > 41:
        raise ValueError(f"scoreboard.rates_count must be at most 41, got {scoreboard['rates_count']}")
    scales = scoreboard["scales"]
    if 1.0 not in scales or not all(scale > 0 for scale in scales) or len(set(scales)) < len(scales):
        raise ValueError(
            f"scoreboard.scales must be positive, different, and hold 1.0, at which nothing is tuned, got {scales}"
        )


def _refuse_map(given: Any) -> None:
    _refuse_kind("map", given, dict)
    _refuse_name("map.name", given.get("name"))
    for key, kind in {"point": dict, "values": dict, "panels": list, "optimizee": dict, "trained": dict | None}.items():
        _refuse_kind(f"map.{key}", given.get(key), kind)
    for key in PROPERTIES:
        _refuse_property(f"map.point.{key}", given["point"].get(key), key)
    for key, values in given["values"].items():
        _refuse_unknown(f"map.values.{key}", key, PROPERTIES)
        _refuse_kind(f"map.values.{key}", values, list)
        for value in values:
            _refuse_property(f"map.values.{key}", value, key)
        if not values or len(set(values)) < len(values):
            raise ValueError(f"map.values.{key} must be different values, at least one, got {values}")
    if not given["panels"]:
        raise ValueError("map.panels is empty: a map needs a panel, as {x: width, y: depth}")
    for number, panel in enumerate(given["panels"]):
        _refuse_panel(f"map.panels[{number}]", panel, given["values"])
    for key, ends in (given["trained"] or {}).items():
        _refuse_unknown(f"map.trained.{key}", key, PROPERTIES)
        if not fits(ends, tuple[float, float]) or ends[0] > ends[1]:
            raise ValueError(f"map.trained.{key} must be the lowest and the highest value, got {as_written(ends)}")


def _refuse_panel(place: str, panel: Any, values: Mapping[str, Any]) -> None:
    _refuse_table(place, panel, {"x": str, "y": str}, ("x", "y"))
    for key in panel.values():
        if key not in PROPERTIES or key not in values:
            raise ValueError(f"{place}: {key} must be one of {', '.join(PROPERTIES)}, with map.values.{key}")
    if panel["x"] == panel["y"]:
        raise ValueError(f"{place} has {panel['x']} on both axes: choose two properties")


def _refuse_property(key: str, value: Any, name: str) -> None:
    """Refuse a value that a property of a map's problem cannot have."""
    _refuse_kind(key, value, PROPERTIES[name])
    least: Callable[[Any], bool] = (lambda v: v >= 1) if PROPERTIES[name] is int else (lambda v: v > 0)
    if not least(value):
        raise ValueError(f"{key} must be {'at least 1' if PROPERTIES[name] is int else 'more than 0'}, got {value}")


def _refuse_table(place: str, node: Any, kinds: Mapping[str, Any], needed: Collection[str]) -> None:
    """Refuse what is no table, or has a key that nothing reads, lacks a needed one, or has one of another kind."""
    _refuse_kind(place, node, dict)
    for key in node:
        _refuse_unknown(f"{place}.{key}", str(key), kinds)
    for key, kind in kinds.items():
        if key in needed and node.get(key) is None:
            raise ValueError(f"{place}.{key} is missing: {', '.join(needed)} are needed")
        if key in node:
            _refuse_kind(f"{place}.{key}", node[key], kind)


def _refuse_unknown(place: str, key: str, known: Collection[str]) -> None:
    if key not in known:
        hint = did_you_mean(key, known) or f": there are {', '.join(known)}"
        raise ValueError(f"{place} has no effect: nothing reads it{hint}")


def _refuse_name(key: str, name: Any) -> None:
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]*", name):
        raise ValueError(f"{key} must be a name of letters, digits, '.', '_' and '-', got {as_written(name)}")


def _refuse_kind(key: str, value: Any, kind: Any) -> None:
    if not fits(value, kind):
        raise ValueError(f"{key} must be {in_words(kind)}, got {as_written(value)}")


def _plain(cfg: DictConfig, key: str) -> Any:
    node = cfg[key]
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
