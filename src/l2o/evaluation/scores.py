"""The numbers of a scoreboard: what a final loss is, how it compares with a baseline's, how many tasks sum up to one.

Shapes: T steps of an episode, S seeds, N tasks. Every loss is lower where it is better, and what is not finite counts
as inf.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

LAST_SHARE = 0.05
"""A final loss is the mean over this share of an episode's steps, its last ones."""

DIVERGED = 2.0
"""A run has diverged where its final loss is not finite, or so many times its loss at the start."""

ROUNDING = 1e-6
"""A loss has reached a target from which it differs by so small a part of it: sums in another order round otherwise."""

RESAMPLES = 2000
"""So many times the seeds of every task are drawn anew for an interval."""

BEYOND_STEPS = 50
"""So many steps are averaged where it is asked whether a loss rises again after the horizon."""

Array = NDArray[np.float64]


def last_steps(num_steps: int) -> int:
    """Return how many steps a final loss is averaged over: 5 % of an episode, and at least one."""
    return max(1, math.ceil(LAST_SHARE * num_steps - 1e-9))  # 0.05 · 100 is a little more than 5 in floating point


def final_losses(losses: ArrayLike) -> Array:
    """Average losses (T, S) over the last 5 % of the steps: (S,). A run with a nan among them counts as inf."""
    values = np.asarray(losses, float)
    with np.errstate(invalid="ignore", over="ignore"):
        means = values[-last_steps(len(values)) :].mean(0)
    return np.where(np.isnan(means), np.inf, means)


def diverged(finals: ArrayLike, starts: ArrayLike) -> NDArray[np.bool_]:
    """Say of every run whether its final loss is not finite, or more than twice the loss |f(θ_0)| at its start."""
    ends, begins = np.asarray(finals, float), np.asarray(starts, float)
    return ~np.isfinite(ends) | (ends > np.maximum(begins, 0) + (DIVERGED - 1) * np.abs(begins))


def steps_to(losses: ArrayLike, target: float, width: int | None = None) -> int | None:
    """Return the first step at which losses (T, S) have come down to `target`, and None where they never have.

    What is compared is the running mean over all seeds and over `width` steps, by default as many as a final loss has.
    A loss that is above the target by rounding alone has reached it, so that an optimizer reaches its own final loss.
    """
    values = np.asarray(losses, float)
    width = last_steps(len(values)) if width is None else width
    with np.errstate(invalid="ignore", over="ignore"):
        means = np.lib.stride_tricks.sliding_window_view(values.mean(1), width).mean(-1)
    reached = np.flatnonzero(means <= target + ROUNDING * abs(target))  # a comparison with nan is false
    return int(reached[0]) + width if len(reached) else None


class Rise(NamedTuple):
    """Say how far the loss at the end of runs lies above its lowest: of the mean curve, and of the worst seed."""

    mean: float
    worst: float


def rise(losses: ArrayLike) -> Rise:
    """Divide the running mean of losses (T, S) at their end by its lowest, over `BEYOND_STEPS` steps or all of fewer.

    1 says that the loss is lowest at the end. A mean that is not finite counts as inf.
    """
    values = np.asarray(losses, float)
    width = min(BEYOND_STEPS, len(values))
    with np.errstate(invalid="ignore", over="ignore"):
        curves = np.column_stack((values.mean(1), values))  # (T, 1 + S), the mean over the seeds first
        means = np.lib.stride_tricks.sliding_window_view(curves, width, axis=0).mean(-1)
    means = np.where(np.isfinite(means), means, np.inf)
    first, *others = (_ratio(float(end), float(low)) for end, low in zip(means[-1], means.min(0), strict=True))
    return Rise(first, max(others))


def envelope_steps(steps: ArrayLike, envelope: ArrayLike, loss: float) -> float | None:
    """Return after how many steps a falling envelope of losses, given at `steps`, is down to `loss`.

    Between two knots it is interpolated linearly. None where the envelope never comes down so far, or `loss` is not
    finite; the first of the steps where it begins below `loss`.
    """
    knots, falling = np.asarray(steps, float), np.minimum.accumulate(np.asarray(envelope, float))
    below = np.flatnonzero(falling <= loss)
    if not len(below) or not math.isfinite(loss):
        return None
    after = int(below[0])
    if after == 0:
        return float(knots[0])
    high, low = falling[after - 1], falling[after]
    return float(knots[after - 1] + (high - loss) / (high - low) * (knots[after] - knots[after - 1]))


class Interval(NamedTuple):
    """Hold an estimate with the ends of its 95 % interval."""

    value: float
    low: float
    high: float


def interquartile_mean(values: ArrayLike) -> float:
    """Return the mean of the middle half of some numbers: a quarter of them is cut off at either end.

    A single bad task moves it little, and a few that diverged leave it finite (Agarwal et al. 2021, arXiv 2108.13264).
    """
    from scipy.stats import trim_mean

    return float(trim_mean(np.asarray(values, float).ravel(), 0.25))


def interval(ratios: Sequence[ArrayLike], seed: int = 0) -> Interval:
    """Return the interquartile mean of N tasks' ratios, each (S,), with a bootstrap interval.

    As in Agarwal et al. (2021), the mean is over the runs of all tasks together, and the interval is that of seeds
    drawn anew within every task; which tasks there are stays as it is.
    """
    from scipy.stats import trim_mean

    if not ratios:
        raise ValueError("an interquartile mean needs at least one task, got none")
    runs = [np.asarray(ratio, float).ravel() for ratio in ratios]
    generator = np.random.default_rng(seed)
    drawn = [run[generator.integers(len(run), size=(RESAMPLES, len(run)))] for run in runs]
    means = np.sort(trim_mean(np.concatenate(drawn, 1), 0.25, axis=1))
    cut = int(0.025 * RESAMPLES)
    return Interval(interquartile_mean(np.concatenate(runs)), float(means[cut]), float(means[-cut - 1]))


def profile(ratios: ArrayLike, thresholds: ArrayLike) -> Array:
    """Return the share of runs whose ratio is at most each of the thresholds."""
    runs = np.sort(np.asarray(ratios, float).ravel())
    return np.searchsorted(runs, np.asarray(thresholds, float), side="right") / len(runs)


def paired_ratio(losses: ArrayLike, others: ArrayLike) -> tuple[float, float | None]:
    """Return the ratio of the means of losses (S,) and of others on the same seeds, and its standard error.

    What makes a seed hard for both cancels. The ratio is inf where a loss is not finite, and 1 where both are 0. The
    error is None for a single seed, and where anything is not finite.
    """
    ours, theirs = np.asarray(losses, float), np.asarray(others, float)
    mean, base = float(ours.mean()), float(theirs.mean())
    ratio = _ratio(mean, base)
    if len(ours) < 2 or not (math.isfinite(ratio) and math.isfinite(base)) or not base:
        return ratio, None
    residuals = ours - ratio * theirs
    return ratio, float(residuals.std(ddof=1) / math.sqrt(len(ours)) / abs(base))


def seed_ratios(losses: ArrayLike, others: ArrayLike) -> Array:
    """Return every seed's loss divided by the other optimizer's on the same seed: (S,)."""
    pairs = zip(np.asarray(losses, float).tolist(), np.asarray(others, float).tolist(), strict=True)
    return np.array([_ratio(loss, other) for loss, other in pairs])


def _ratio(loss: float, other: float) -> float:
    """Divide two losses: inf where ours is not finite; where both diverged, too, since neither is any good."""
    if not math.isfinite(loss):
        return math.inf
    if not math.isfinite(other):
        return 0.0
    return loss / other if other else (1.0 if loss == 0 else math.inf)
