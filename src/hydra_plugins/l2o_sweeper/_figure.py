"""What a sweep found, as a figure: the loss over each key."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hydra_plugins.l2o_sweeper._rows import SEED, Row, short
from l2o.figures.lines import label_plainly
from l2o.figures.palette import BLACK, BLUE, GREY, GRID, VERMILLION, readable
from l2o.files import replacing

JOB = "job"
"""What is drawn along the axis where no key differs between the jobs."""


@readable
def draw(keys: Iterable[str], rows: Sequence[Row], path: Path, heading: str = "Loss", means: bool = False) -> None:
    """Draw the loss over each key, side by side: a star for the best job, crosses at the top for those without a loss.

    `rows` has the best first. The seed has a panel only where nothing else differs. With `means`, a line goes through
    the means of the jobs that have the same value, but not from seed to seed.
    """
    shown = [key for key in keys if key != SEED] or [SEED if any(SEED in row.params for row in rows) else JOB]
    figure = Figure(figsize=(1 + 4 * len(shown), 3.8), layout="constrained")
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for axes, key in zip(panels, shown, strict=True):
        _panel(axes, key, rows, means)
    losses = [row.loss for row in rows if row.loss is not None]
    if losses and losses[0] > 0 and losses[-1] > 5 * losses[0]:
        panels[0].set_yscale("log")
    panels[0].set_ylabel(heading)
    label_plainly(panels[0])
    panels[0].legend(fontsize="small", frameon=True, edgecolor="none")
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=160)


def _panel(axes: Axes, key: str, rows: Sequence[Row], means: bool) -> None:
    places = _places(axes, key, rows)
    good = [(place, row.loss) for place, row in zip(places, rows, strict=True) if row.loss is not None]
    bad = [place for place, row in zip(places, rows, strict=True) if row.loss is None]
    if means and key not in (SEED, JOB):
        found = {place: [loss for other, loss in good if other == place] for place, _ in good}
        line = sorted((place, math.fsum(losses) / len(losses)) for place, losses in found.items())
        axes.plot(*zip(*line, strict=True), color=BLUE, linewidth=1.6, label="mean")
    axes.plot(*zip(*good, strict=True), "o", color=BLACK, alpha=0.6)
    axes.plot(*good[0], "*", color=VERMILLION, markersize=15, label=f"best: {good[0][1]:.4g}")
    if bad:
        top: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "label": "diverged or failed"}
        axes.plot(bad, [0.97] * len(bad), "x", color=GREY, **top)
    axes.set_xlabel(key)
    axes.grid(**GRID)


def _places(axes: Axes, key: str, rows: Sequence[Row]) -> list[float]:
    """Return where on a panel's axis the jobs stand, and scale and label the axis.

    Numbers stand where they belong, on a logarithmic axis where they spread over more than a decade; seeds, numbers of
    jobs and any other values stand side by side.
    """
    values = {row.number: row.number if key == JOB else row.params.get(key) for row in rows}
    if key not in (SEED, JOB) and all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in values.values()
    ):
        numbers = [float(value) for value in values.values()]  # type: ignore[arg-type]  # checked above
        if min(numbers) > 0 and max(numbers) > 10 * min(numbers):
            axes.set_xscale("log")
        return numbers
    names = list(dict.fromkeys(short(values[number]) for number in sorted(values)))
    long = max(map(len, names)) > 8
    axes.set_xticks(range(len(names)), names, rotation=30 if long else 0, ha="right" if long else "center")
    axes.set_xlim(-0.5, len(names) - 0.5)
    return [float(names.index(short(value))) for value in values.values()]
