"""Losses over steps as lines: what all figures of learning curves have in common.

Shapes: T steps.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.ticker import FuncFormatter
from numpy.typing import ArrayLike

from l2o.figures.palette import GREY, GRID, styles
from l2o.figures.smoothing import Array, smoothed, width_for

TINT = 0.14
"""A band has so much of the colour of its line, and white else."""

SPREAD = 3.0
"""The axis of losses is logarithmic where the highest loss is so many times the lowest one, or more."""


class Line(NamedTuple):
    """Hold the losses f(θ_1) … f(θ_T) (T,) of one optimizer, and a band (low, high), each (T,), where one is drawn.

    `horizon` is the number of steps that the optimizer was trained for; None where nobody knows it, and for baselines.
    """

    label: str
    losses: Array
    baseline: bool
    band: tuple[Array, Array] | None = None
    horizon: int | None = None
    name: str = ""  # by which the palette knows it; the label where it is empty


def draw_lines(axes: Axes, lines: Sequence[Line], title: str = "", band: str = "") -> None:
    """Draw learning curves into axes, with a legend that says what a `band` shows.

    Lines of learned optimizers are solid and thick, those of baselines dashed. Where minibatch noise would hide the
    lines, all of them are moving averages, and the label of the axis says over how many steps. An optimizer that
    diverges leaves the picture at the top instead of flattening the others. A thin vertical line marks the step to
    which a learned optimizer was trained, where its curve goes on beyond it.
    """
    highest = max(float(np.nanmax(np.where(np.isfinite(line.losses[:1]), line.losses[:1], 0))) for line in lines)
    ceiling = 10 * highest if highest > 0 else np.inf  # out of sight, and near enough for the axis's margins
    width = width_for(line.losses for line in lines)
    look = styles({line.name or line.label: line.baseline for line in lines})
    for line in lines:
        style: dict[str, Any] = look[line.name or line.label]
        weight = {"linewidth": 1.6, "zorder": 2} if line.baseline else {"linewidth": 2.2, "zorder": 3}
        steps = np.arange(1, len(line.losses) + 1)
        axes.plot(steps, smoothed(_drawable(line.losses, ceiling), width), label=line.label, **style, **weight)
        if line.band is not None:
            low, high = (smoothed(_drawable(edge, ceiling), width) for edge in line.band)
            draw_band(axes, steps, low, high, style["color"], in_front=not line.baseline)
    label_axes(axes, title, "Step", "Loss" if width == 1 else f"Loss (moving average of {width} steps)")
    axes.set_xlim(1, max(2, *(len(line.losses) for line in lines)))
    if highest > 0:
        axes.set_ylim(top=min(axes.get_ylim()[1], 2 * highest))
    mark_horizons(axes, lines)
    legend(axes, band)


def draw_band(axes: Axes, steps: ArrayLike, low: Array, high: Array, colour: str, in_front: bool = False) -> None:
    """Fill the band between two edges (T,) with a tint of a colour, and draw its edges thinly.

    The tint is opaque, because two tints that one sees through mix to a brown that belongs to nobody. Where bands lie
    over each other, the one in front is seen; the edges of both stay visible.
    """
    tint = tuple(1 - TINT * (1 - part) for part in to_rgb(colour))
    place = 1.1 if in_front else 1.0  # below the mark of a horizon (1.4), the grid (1.5) and the lines (2)
    axes.fill_between(steps, low, high, facecolor=tint, edgecolor="none", zorder=place)
    edges = [np.column_stack([steps, edge]) for edge in (low, high)]
    axes.add_collection(LineCollection(edges, colors=colour, linewidths=0.7, alpha=0.35, zorder=1.6))


def mark_horizons(axes: Axes, lines: Iterable[Line]) -> None:
    """Mark the step to which learned optimizers were trained with a thin vertical line, and say so above the axes."""
    found: dict[int, list[str]] = {}
    for line in lines:
        if line.horizon is not None and line.horizon < len(line.losses):
            found.setdefault(line.horizon, []).append(line.label)
    for number, (horizon, labels) in enumerate(sorted(found.items())):
        axes.axvline(horizon, color=GREY, linewidth=0.9, zorder=1.4)
        left, right = axes.get_xlim()
        place = (horizon - left) / (right - left)
        side = "left" if place < 0.3 else "right" if place > 0.7 else "center"
        text = f"{', '.join(labels)}: " * (len(found) > 1) + f"trained for {horizon} steps"
        where = {"transform": axes.get_xaxis_transform(), "ha": side, "va": "bottom"}
        axes.text(horizon, 1.01 + 0.055 * number, text, color=GREY, fontsize="small", **where)
    if found:
        axes.set_title(axes.get_title(), pad=6 + 15 * len(found))


def legend(axes: Axes, band: str = "") -> None:
    """Name the lines below the figure, where none of them is hidden, and say what bands show if there are any."""
    title = f"band: {band}" if band and axes.collections else ""
    where: dict[str, Any] = {"loc": "outside lower center", "ncols": 3, "frameon": False, "fontsize": "small"}
    axes.figure.legend(*axes.get_legend_handles_labels(), title=title, title_fontsize="x-small", **where)


def label_axes(axes: Axes, title: str, xlabel: str, ylabel: str) -> None:
    """Name the axes and the picture, and choose between a linear and a logarithmic axis of losses."""
    drawn = [np.asarray(line.get_ydata(), float) for line in axes.lines]
    values = np.concatenate([one[np.isfinite(one)] for one in drawn]) if drawn else np.array([])
    positive = values[values > 0]
    log = len(positive) > 0 and (len(positive) < len(values) or positive.max() >= SPREAD * positive.min())
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel, yscale="log" if log else "linear")
    label_plainly(axes)
    axes.grid(**GRID)


def _between_powers(value: float, _: object) -> str:
    """Label a value between two powers of ten, but for those that begin with 7 or 9."""
    return "" if f"{value:.0e}"[0] in "79" else f"{value:g}"


def label_plainly(axes: Axes) -> None:
    """Write 0.3, not 3 × 10⁻¹, and label what lies between the powers of ten only where few powers are shown.

    Labels that begin with 7 or 9 are left out: they would touch their neighbours.
    """
    low, high = axes.get_ylim()
    narrow = high < 30 * low
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    if axes.get_yscale() == "log":
        axes.yaxis.set_minor_formatter(FuncFormatter(_between_powers if narrow else lambda value, _: ""))
    axes.tick_params(axis="y", which="minor", labelsize="small")


def _drawable(values: Array, ceiling: float) -> Array:
    """Leave gaps where a curve is not finite, and cut it at the ceiling."""
    values = np.asarray(values, float)
    return np.minimum(np.where(np.isfinite(values), values, np.nan), ceiling)
