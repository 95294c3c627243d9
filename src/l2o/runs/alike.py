"""Runs that differ in their seed alone, and the settings in which all others differ."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from l2o.runs.finished import Finished
from l2o.runs.problem import compared_optimizee, trained_on

NO_SETTINGS = ("seed", "logger", "output_dir", "ckpt_path", "name", "sweep", "checkpoint_minutes", "imports", "device")
"""Keys that say where and how a run works, not what it does. The seed is averaged over."""

NO_TRAINER_SETTINGS = ("accelerator", "devices", "enable_progress_bar", "log_every_n_steps")


@dataclass(frozen=True)
class Group:
    """Hold runs that differ in their seed alone, and what sets them apart from the other groups, as a label.

    The label is empty where there is one group.
    """

    label: str
    runs: Sequence[Finished]


def groups_of(runs: Sequence[Finished]) -> list[Group]:
    """Return the groups of some runs, in their order. Raises ValueError where runs are on different problems.

    Two runs with the same settings and the same seed are no independent samples: each makes a group of its own.
    """
    refuse_mixed(runs)
    settings = [_flat(_settings(run.cfg)) for run in runs]
    found: dict[str, list[int]] = {}
    for number, own in enumerate(settings):
        found.setdefault(repr(sorted(own.items())), []).append(number)
    groups = [part for numbers in found.values() for part in _without_twins(numbers, runs)]
    firsts = [settings[numbers[0]] for numbers in groups]
    labels = _labels(firsts, [runs[numbers[0]].name for numbers in groups])
    return [Group(label, [runs[n] for n in numbers]) for label, numbers in zip(labels, groups, strict=True)]


def refuse_mixed(runs: Sequence[Finished]) -> None:
    """Raise ValueError, which names a key that differs, where runs compare optimizers on different problems."""
    problems = [_flat(OmegaConf.to_container(compared_optimizee(run.cfg), resolve=True)) for run in runs]
    for run, problem in zip(runs[1:], problems[1:], strict=True):
        for key in sorted({*problem, *problems[0]}):
            here, there = problem.get(key, "nothing"), problems[0].get(key, "nothing")
            if here != there:
                raise ValueError(
                    f"runs on different problems cannot be drawn together: optimizee.{key} is {there} in "
                    f"'{runs[0].folder}' and {here} in '{run.folder}'. Give runs=[…] of one problem"
                )


def trained_alike(runs: Sequence[Finished]) -> bool:
    """Whether validation losses of runs can be compared: they are of the same problems, after as many steps."""
    return len({repr(_validated_on(run.cfg)) for run in runs}) < 2


def _validated_on(cfg: DictConfig) -> Any:
    learner = cfg.get("learner") or {}
    suite = learner.get("validation")
    shown: Any = trained_on(cfg) if suite is None else OmegaConf.to_container(suite, resolve=True)
    return shown, learner.get("horizon")


def _without_twins(numbers: Sequence[int], runs: Sequence[Finished]) -> list[list[int]]:
    seeds = [runs[number].cfg.get("seed") for number in numbers]
    return [list(numbers)] if len(set(seeds)) == len(seeds) else [[number] for number in numbers]


def _settings(cfg: DictConfig) -> dict[str, Any]:
    """Return what a run does, as plain values in which references such as `${seed}` stay as they are."""
    found: Any = OmegaConf.to_container(cfg, resolve=False)
    trainer = found.get("trainer") or {}
    found["trainer"] = {key: value for key, value in trainer.items() if key not in NO_TRAINER_SETTINGS}
    return {key: value for key, value in found.items() if key not in NO_SETTINGS}


def _labels(settings: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    """Return for each group the values of the keys in which the groups differ; its folder where that says nothing."""
    keys = [key for key in dict.fromkeys(k for own in settings for k in own)
            if len({repr(own.get(key)) for own in settings}) > 1]  # fmt: skip
    if len(settings) < 2:
        return [""] * len(settings)
    labels = [", ".join(f"{_short(key, keys)}={_shown(own[key])}" for key in keys if key in own) for own in settings]
    usable = len(set(labels)) == len(labels) and max(map(len, labels)) <= 60 and all(labels)
    return labels if usable else list(names)


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _short(key: str, keys: Sequence[str]) -> str:
    """Return the last part of a key, or as many as set it apart from the other keys."""
    parts = key.split(".")
    for count in range(1, len(parts) + 1):
        end = ".".join(parts[-count:])
        if sum(other == end or other.endswith(f".{end}") for other in keys) == 1:
            return end
    return key


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return the leaves of a nested mapping by their keys with dots."""
    if not isinstance(value, Mapping) or not value:
        return {prefix: value}
    return {key: leaf for name, inner in value.items()
            for key, leaf in _flat(inner, f"{prefix}.{name}" if prefix else str(name)).items()}  # fmt: skip
