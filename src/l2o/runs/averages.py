"""Averages over runs that differ in their seed alone: of learning curves, and of validations.

Shapes: T steps of an episode, V validations, R runs.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from l2o.evaluation.comparison import LAST_STEPS
from l2o.figures.validations import Progress
from l2o.runs.alike import Group
from l2o.runs.finished import Array, Curve, Finished


class Average(NamedTuple):
    """Hold a line of a figure: mean losses (T,) over R runs, their standard errors (T,), and the final losses (R,).

    For a single run `errors` is None, and `band` has the quantiles over its problems where they are drawn.
    """

    label: str
    name: str
    losses: Array
    errors: Array | None
    finals: Sequence[float]
    baseline: bool
    horizon: int | None
    band: tuple[Array, Array] | None = None


def average(values: Array) -> tuple[Array, Array | None]:
    """Return the mean of R rows (R, T) and its standard error, each (T,); the error is None for a single row."""
    with np.errstate(invalid="ignore"):  # a diverged run makes the mean inf, and the error nan
        mean = values.mean(0)
        return mean, values.std(0, ddof=1) / len(values) ** 0.5 if len(values) > 1 else None


def averages_of(groups: Sequence[Group]) -> Iterator[Average]:
    """Yield the learned optimizers of every group. Curves of different lengths are averaged as far as the shortest."""
    for group in groups:
        names = dict.fromkeys(name for run in group.runs for name, curve in run.curves.items() if not curve.baseline)
        for name in names:
            curves = [run.curves[name] for run in group.runs if name in run.curves]
            label = f"{name}, {group.label}" if group.label else name
            yield _average(label, "" if group.label else name, curves, band=len(groups) == 1)


def pooled_baselines(groups: Sequence[Group]) -> Iterator[Average]:
    """Yield the baselines: each once, where all runs with one seed found the same of it; else once for each group."""
    runs = [run for group in groups for run in group.runs]
    for name in dict.fromkeys(name for run in runs for name, curve in run.curves.items() if curve.baseline):
        pooled = _one_of_each_seed([run for run in runs if name in run.curves], name)
        if pooled is not None:
            curves = [run.curves[name] for run in pooled]
            yield _average(_with_rate(name, curves), name, curves)
            continue
        for group in groups:
            if curves := [run.curves[name] for run in group.runs if name in run.curves]:
                yield _average(f"{_with_rate(name, curves)}, {group.label}", "", curves)


def progress_of(group: Group) -> Progress | None:
    """Return the mean validation losses of a group's runs at the validations of the shortest; None without any."""
    found = [run.validations for run in group.runs if run.validations]
    if not found:
        return None
    shortest = min(found, key=lambda one: one.meta_steps[-1])
    losses = np.stack([np.interp(shortest.meta_steps, one.meta_steps, one.losses) for one in found])
    inner = np.stack([np.interp(shortest.meta_steps, one.meta_steps, one.inner_steps) for one in found])
    mean, errors = average(losses)
    count = f" ({len(found)} seeds)" if len(found) > 1 else ""
    return Progress(f"{group.label or 'φ'}{count}", mean, errors, shortest.meta_steps, inner.mean(0))


def _average(label: str, name: str, curves: Sequence[Curve], band: bool = False) -> Average:
    length = min(len(curve.mean) for curve in curves)
    losses, errors = average(np.stack([curve.mean[:length] for curve in curves]))
    horizons = {curve.horizon for curve in curves}
    horizon = horizons.pop() if len(horizons) == 1 else None
    quantiles = (curves[0].low, curves[0].high) if band and len(curves) == 1 else None
    finals = [float(curve.mean[-LAST_STEPS:].mean()) for curve in curves]
    many = f" ({len(curves)} seeds)" if len(curves) > 1 and not curves[0].baseline else ""
    return Average(f"{label}{many}", name, losses, errors, finals, curves[0].baseline, horizon, quantiles)


def _one_of_each_seed(runs: Sequence[Finished], name: str) -> list[Finished] | None:
    """Return a run for each seed; None where two runs with one seed found different things of an optimizer."""
    firsts: dict[object, Finished] = {}
    for run in runs:
        first = firsts.setdefault(run.cfg.get("seed"), run)
        if not np.array_equal(first.curves[name].mean, run.curves[name].mean):
            return None
    return list(firsts.values())


def _with_rate(name: str, curves: Sequence[Curve]) -> str:
    """Return a baseline's name with its learning rate, where that is one and the same."""
    rates = {curve.lr for curve in curves}
    rate = rates.pop() if len(rates) == 1 else None
    return name if rate is None else f"{name} (lr {rate:.2g})"
