"""Meta-training as it goes on: validation losses over meta-updates and over inner steps.

Shapes: V validations.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from l2o.figures.lines import draw_band, label_axes, legend
from l2o.figures.palette import readable, series
from l2o.figures.smoothing import Array


class Progress(NamedTuple):
    """Hold a line: a label, losses (V,), their standard errors (V,) over seeds, and meta-updates and inner steps (V,).

    The errors are None for a single run. The inner steps are nan where nobody knows them.
    """

    label: str
    losses: Array
    errors: Array | None
    meta_steps: Array
    inner_steps: Array


@readable
def plot_validations(lines: Sequence[Progress], path: str | Path, title: str = "") -> Path:
    """Draw a panel over meta-updates and one over inner steps, and return `path`, a PNG.

    A band is the mean plus and minus one standard error over seeds. What is not finite leaves a gap.
    """
    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    colours = series(line.label for line in lines)
    marker = "." if max(len(line.losses) for line in lines) <= 60 else ""
    for axes, name in zip(panels, ("meta_steps", "inner_steps"), strict=True):
        for line in lines:
            places = getattr(line, name)
            losses = np.where(np.isfinite(line.losses), line.losses, np.nan)
            axes.plot(places, losses, marker=marker, color=colours[line.label], label=line.label, linewidth=1.8)
            if line.errors is not None:
                draw_band(axes, places, losses - line.errors, losses + line.errors, colours[line.label])
    for axes, name in zip(panels, ("Meta-updates", "Inner steps, of all slots together"), strict=True):
        label_axes(axes, "", name, "Final loss on validation problems" if axes is panels[0] else "")
    figure.suptitle(title)
    legend(panels[0], "± 1 standard error over seeds")
    figure.savefig(path, dpi=160)
    return Path(path)
