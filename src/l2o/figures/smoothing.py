"""Lines that minibatch noise would hide: how noisy a curve is, and the moving average that is drawn in its place.

Shapes: T steps.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

NOISY = 0.02
"""A curve is smoothed where a step's noise is more than so large a part of the loss."""

FEWEST_STEPS = 50
"""A shorter curve is drawn as it is: every step can be seen."""


def noise(curve: Array) -> float:
    """Estimate the standard deviation of the noise of a step of a curve (T,), relative to the loss.

    It is taken from the second differences of the logarithm, in which a smooth descent, however steep, cancels. Their
    median does not notice a few jumps; for normal noise of standard deviation s it is 0.6745 √6 s. Where nothing is
    known, the noise is 0.
    """
    positive = np.where(np.isfinite(curve) & (curve > 0), curve, np.nan)
    bends = np.abs(np.diff(np.log(positive), 2))
    bends = bends[np.isfinite(bends)]
    return float(np.median(bends) / (0.6745 * 6**0.5)) if len(bends) else 0.0


def width_for(curves: Iterable[Array]) -> int:
    """Return over how many steps curves (T,) are averaged in a figure: 1 where none of them is noisy.

    All curves of a figure are averaged alike, over a fortieth of the longest, an odd number and at least 5.
    """
    curves = list(curves)
    longest = max(map(len, curves), default=0)
    if longest < FEWEST_STEPS or not any(noise(curve) > NOISY for curve in curves):
        return 1
    return max(5, 2 * (longest // 80) + 1)


def smoothed(curve: Array, width: int) -> Array:
    """Return the moving average of a curve (T,) over `width` steps, an odd number, centred at each step.

    Near the start, where losses fall fast, fewer steps are averaged, as many before a step as after it, so that the
    first value is kept. At the end those after the last one are left out. What is not finite is left out of the
    averages, and stays a gap.
    """
    found = np.full(len(curve), np.nan)
    for step in np.flatnonzero(np.isfinite(curve)):
        before = min(width // 2, step)
        window = curve[step - before : step + before + 1]
        found[step] = window[np.isfinite(window)].mean()
    return found
