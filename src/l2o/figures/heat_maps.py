"""A map of where rules hold: final losses relative to tuned Adam's, over two properties of a problem at a time."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter

from l2o.figures.palette import readable

NAMES = {"width": "Hidden units", "depth": "Hidden layers", "horizon": "Steps", "init_std": "Std of the start"}
"""How the axes call the properties of a problem. A property that is not here is called by its own name."""

FACTOR = 4.0
"""The colours reach from a quarter of tuned Adam's loss to four times it; what is beyond has the last colour."""


class HeatMap(NamedTuple):
    """Hold a rule's losses relative to tuned Adam, row by row for `ys`, and the ranges that it was trained on.

    `fixed` has the other properties of the problem, which are the same in all cells, with their values.
    """

    rule: str
    x: str
    y: str
    xs: Sequence[float]
    ys: Sequence[float]
    losses: Sequence[Sequence[float]]
    trained: Mapping[str, tuple[float, float]]
    fixed: Mapping[str, float]


@readable
def plot_heat_maps(maps: Sequence[HeatMap], columns: int, path: str | Path, title: str = "") -> Path:
    """Draw the maps, a row of `columns` for each rule, and return `path`, a PNG.

    Blue is better than tuned Adam, red worse, and ∞ diverged. A frame outlines what a rule was trained on. Above every
    map stand the values of the properties that it does not vary.
    """
    rows = math.ceil(len(maps) / columns)
    figure = Figure(figsize=(1.2 + 4.4 * columns, 0.9 + 3.5 * rows), layout="constrained")
    figure.suptitle(title)
    grid = figure.subplots(rows, columns, squeeze=False)
    images = [_draw(axes, shown) for axes, shown in zip(grid.flat, maps, strict=True)]
    bar = figure.colorbar(images[0], ax=grid, label="Final loss relative to tuned Adam", shrink=0.8)
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{2.0**value:g}"))
    bar.set_ticks([-2, -1, 0, 1, 2])
    figure.savefig(path, dpi=160)
    return Path(path)


def _draw(axes: Axes, shown: HeatMap) -> AxesImage:
    losses = np.array(shown.losses, float)
    with np.errstate(divide="ignore"):
        colours = np.clip(np.log2(np.where(np.isfinite(losses), losses, np.inf)), -math.log2(FACTOR), math.log2(FACTOR))
    image = axes.imshow(colours, cmap="RdBu_r", vmin=-2, vmax=2, origin="lower", aspect="auto")
    for (row, column), loss in np.ndenumerate(losses):
        text = f"{loss:.2g}" if math.isfinite(loss) else "∞"
        dark = abs(colours[row, column]) > 1.3
        axes.text(column, row, text, ha="center", va="center", fontsize="small", color="white" if dark else "black")
    axes.set(
        title="\n".join([shown.rule, *_at(shown.fixed)]),
        xlabel=NAMES.get(shown.x, shown.x),
        ylabel=NAMES.get(shown.y, shown.y),
    )
    axes.set_xticks(range(len(shown.xs)), [f"{value:g}" for value in shown.xs])
    axes.set_yticks(range(len(shown.ys)), [f"{value:g}" for value in shown.ys])
    _outline(axes, shown)
    return image


def _at(fixed: Mapping[str, float]) -> list[str]:
    """Return a line that says at which values of the other properties a map was made; none without such properties."""
    values = ", ".join(f"{NAMES.get(key, key).lower()} = {value:g}" for key, value in fixed.items())
    return [f"at {values}"] if values else []


def _outline(axes: Axes, shown: HeatMap) -> None:
    """Frame the cells whose values of both properties were trained on, if any were."""
    columns, rows = (
        [i for i, value in enumerate(values) if key in shown.trained and _within(value, shown.trained[key])]
        for key, values in ((shown.x, shown.xs), (shown.y, shown.ys))
    )
    if columns and rows:
        corner = columns[0] - 0.5, rows[0] - 0.5
        axes.add_patch(Rectangle(corner, len(columns), len(rows), fill=False, edgecolor="black", linewidth=2.5))


def _within(value: float, ends: tuple[float, float]) -> bool:
    return ends[0] * (1 - 1e-9) <= value <= ends[1] * (1 + 1e-9)
