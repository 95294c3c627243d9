"""Figure 6 of Andrychowicz et al. (2016): final losses over hidden units, a panel for each number of layers.

`python -m l2o figure6 FOLDER` reads the folder of a multirun of evaluate.py over `optimizee.network.hidden` and writes
`figure6.png` into it.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from omegaconf import OmegaConf

from l2o.figures.lines import label_plainly, legend
from l2o.figures.palette import GREY, GRID, readable, styles


class Point(NamedTuple):
    """Hold what was found on one network of the grid.

    That is the mean final loss of each optimizer, nan where it diverged, and which optimizers are hand-designed.
    """

    layers: int
    units: int
    losses: dict[str, float]
    baselines: set[str]


def collect(folder: str | Path) -> list[Point]:
    """Return the points of a multirun's finished runs, ordered by layers and units."""
    points = [_point(path) for path in sorted(Path(folder).glob("*/summary.json"))]
    if not points:
        raise ValueError(f"no runs with a summary.json in '{folder}': give the folder of a multirun of evaluate.py")
    return sorted(points, key=lambda point: point[:2])


@readable
def plot_grid(points: Sequence[Point], path: str | Path, trained: tuple[int, int] | None = None) -> Path:
    """Draw a panel for each number of layers, and return `path`, a PNG.

    Learned optimizers have solid lines, baselines dashed ones. If `trained` (layers, units) lies in the grid, a
    vertical line marks it, and a horizontal one the first learned optimizer's loss there.
    """
    layers = sorted({point.layers for point in points})
    figure = Figure(figsize=(1.0 + 2.9 * len(layers), 3.6), layout="constrained")
    panels = figure.subplots(1, len(layers), sharey=True, squeeze=False)[0]
    names = list(dict.fromkeys(name for point in points for name in point.losses))
    baselines = set().union(*(point.baselines for point in points))
    look = styles({name: name in baselines for name in names})
    for axes, count in zip(panels, layers, strict=True):
        _panel(axes, [point for point in points if point.layers == count], look, baselines)
        axes.set(title=f"{count} layer{'s' if count > 1 else ''}", xlabel="Hidden units", yscale="log")
    learned = [name for name in names if name not in baselines]
    marked = [point for point in points if point[:2] == trained]
    if marked and learned:
        panels[layers.index(marked[0].layers)].axvline(marked[0].units, color=GREY, linewidth=0.9)
        for axes in panels:
            axes.axhline(marked[0].losses[learned[0]], color=GREY, linewidth=0.9)
    panels[0].set_ylabel("Final loss")
    label_plainly(panels[0])
    legend(panels[0])
    figure.savefig(path, dpi=160)
    return Path(path)


def _panel(axes: Axes, points: Sequence[Point], look: Mapping[str, dict[str, Any]], baselines: set[str]) -> None:
    for name, style in look.items():
        given = [(point.units, point.losses[name]) for point in points if name in point.losses]
        weight: dict[str, Any] = {"linewidth": 1.6} if name in baselines else {"linewidth": 2.2, "zorder": 3}
        units, losses = zip(*given, strict=True)
        axes.plot(units, losses, label=name, marker="o", markersize=4, **style, **weight)
    axes.set_xticks(sorted({point.units for point in points}))
    axes.grid(**GRID)


def _point(path: Path) -> Point:
    hidden = OmegaConf.load(path.parent / ".hydra/config.yaml").optimizee.network.hidden
    if len(set(hidden)) != 1:
        raise ValueError(f"'{path.parent}': the layers of a network must have the same number of units, got {hidden}")
    rows = json.loads(path.read_text())["optimizers"]
    losses = {name: float("nan") if row["final_loss"] is None else row["final_loss"] for name, row in rows.items()}
    return Point(len(hidden), hidden[0], losses, {name for name, row in rows.items() if _is_baseline(row)})


def _is_baseline(row: Mapping[str, Any]) -> bool:
    """Say whether an optimizer is a baseline. Older runs do not tell, but only their baselines have a learning rate."""
    return row["baseline"] if "baseline" in row else row["lr"] is not None
