"""A run of evaluate.py on a map: where learned rules hold, over two properties of a problem at a time."""

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from l2o.evaluation import scoreboard_files
from l2o.evaluation.scoreboard import REFERENCE, Entry, Scoreboard, Task
from l2o.figures.heat_maps import HeatMap, plot_heat_maps
from l2o.optimizers import UpdateRule
from l2o.runs.command_line.suite_settings import PROPERTIES, refuse_suite_settings
from l2o.runs.contents import hash_of, problem_contents
from l2o.runs.devices import chosen_device, usable
from l2o.runs.learned import open_learned, refuse_same_names
from l2o.runs.loggers import log_figure
from l2o.runs.provenance import provenance
from l2o.runs.shipped_baselines import record
from l2o.runs.suites import Contestant, Suite, built, open_baselines
from l2o.runs.titles import in_words

Point = Mapping[str, float]


def open_map(cfg: DictConfig) -> Suite:
    """Build the points of a map as the tasks of a suite, and the optimizers. Raises ValueError where one is missing."""
    rules = open_learned(cfg)
    if not rules:
        raise ValueError("a map shows where a learned rule holds: give one as learned.NAME=PATH")
    refuse_same_names(rules, [REFERENCE])
    refuse_suite_settings(cfg)
    device = usable(chosen_device(cfg.device, "cpu"))
    tasks = {name: _task(cfg, name, point, device) for name, point in _networks(cfg).items()}
    contestants = {name: Contestant(rule, (1.0,), False) for name, rule in rules.items()}
    contestants[REFERENCE] = open_baselines(cfg)[REFERENCE]
    return Suite(cfg, f"map_{cfg.map.name}", tasks, contestants, {}, device)


def report_map(suite: Suite, board: Scoreboard) -> None:
    """Write map.json and map.png into the output folder."""
    cfg, output = suite.cfg, Path(suite.cfg.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    scoreboard_files.save(board, output / "map.json", {"provenance": provenance(), **record(suite)})
    maps = []
    for name, one in suite.contestants.items():
        if not one.baseline:
            maps += [_heat_map(cfg, board, name, one.rule, panel) for panel in cfg.map.panels]
    figure = plot_heat_maps(maps, len(cfg.map.panels), output / "map.png", _title(cfg))
    log_figure(instantiate(cfg.get("logger") or {}).values(), "map", figure)
    print(f"figure: {figure}", f"numbers: {output / 'map.json'}", sep="\n")


def trained_ranges(rule: UpdateRule) -> dict[str, tuple[float, float]]:
    """Return the lowest and the highest value of every property that a rule's card names as trained on."""
    card = rule.card or {}
    optimizee = card.get("optimizee") or {}
    network = optimizee.get("network") if isinstance(optimizee, Mapping) else None
    hidden = network.get("hidden") if isinstance(network, Mapping) else None
    found = {"horizon": card.get("horizon"), "init_std": optimizee.get("init_std") if network else None}
    if hidden:
        found |= {"width": hidden, "depth": len(hidden)}
    ranges = {key: _range(value) for key, value in found.items()}
    return {key: value for key, value in ranges.items() if value is not None}


def _title(cfg: DictConfig) -> str:
    """Return the problem in words, without the sizes that the map varies."""
    optimizee: Any = OmegaConf.to_container(cfg.map.optimizee, resolve=True)
    network = optimizee.get("network")
    if isinstance(network, dict):
        network.pop("hidden", None)
    return in_words(optimizee)


def _range(value: Any) -> tuple[float, float] | None:
    numbers = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    if not numbers or not all(isinstance(number, int | float) for number in numbers):
        return None
    return min(numbers), max(numbers)


def _points(cfg: DictConfig) -> list[dict[str, float]]:
    """Return the points of all panels."""
    base, values = dict(cfg.map.point), cfg.map["values"]
    return [
        base | {panel.x: x, panel.y: y}
        for panel in cfg.map.panels
        for x, y in product(values[panel.x], values[panel.y])
    ]


def _networks(cfg: DictConfig) -> dict[str, list[dict[str, float]]]:
    """Return the points by what their problem is; those of one problem differ in their horizons alone."""
    found: dict[str, list[dict[str, float]]] = {}
    for point in _points(cfg):
        found.setdefault(_name(point), []).append(point)
    return found


def _name(point: Point) -> str:
    return ", ".join(f"{key} {point[key]:g}" for key in PROPERTIES if key != "horizon")


def _task(cfg: DictConfig, name: str, points: Sequence[Point], device: str) -> tuple[Task, str]:
    here = cfg.copy()
    with read_write(here), open_dict(here):
        here.map.point = {**points[0], "hidden": [int(points[0]["width"])] * int(points[0]["depth"])}
    text = OmegaConf.to_yaml(here.map.optimizee, resolve=True)
    config = OmegaConf.create(text)
    assert isinstance(config, DictConfig)
    content = problem_contents(config, built(text, device))
    horizons = tuple(sorted({int(point["horizon"]) for point in points}))
    return Task(name, horizons, True, content=None if content is None else hash_of(content)), text


def _heat_map(cfg: DictConfig, board: Scoreboard, name: str, rule: UpdateRule, panel: DictConfig) -> HeatMap:
    xs, ys = list(cfg.map["values"][panel.x]), list(cfg.map["values"][panel.y])
    base, entry = dict(cfg.map.point), Entry(name, name, 1.0)
    points = [[base | {panel.x: x, panel.y: y} for x in xs] for y in ys]
    losses = [[board.relative((_name(p), int(p["horizon"])), entry, REFERENCE)[0] for p in row] for row in points]
    given = OmegaConf.to_container(cfg.map.trained) if cfg.map.trained else trained_ranges(rule)
    assert isinstance(given, dict)
    trained = {str(key): (float(low), float(high)) for key, (low, high) in given.items()}
    fixed = {key: base[key] for key in PROPERTIES if key not in (panel.x, panel.y)}
    return HeatMap(name, panel.x, panel.y, xs, ys, losses, trained, fixed)
