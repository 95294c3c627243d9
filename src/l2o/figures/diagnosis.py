"""The figure of a diagnosis: signal and bias of estimates of the meta-gradient, over the horizon."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from l2o.evaluation.diagnostics import Diagnosis
from l2o.figures.lines import legend
from l2o.figures.palette import GRID, readable, series

MARKERS = "osD^vPX*"
"""A marker for each line, because a colour may be hard to make out."""


@readable
def plot_diagnosis(rows: Sequence[Diagnosis], path: str | Path, title: str = "") -> Path:
    """Draw the signal-to-noise ratio and the cosine to FullES's gradient, a line for each estimator and window.

    Points without any signal, whose cosine nobody knows, are left out. Returns `path`, a PNG.
    """
    figure = Figure(figsize=(9.0, 3.8), layout="constrained")
    signal, bias = figure.subplots(1, 2)
    several = len({row.window for row in rows}) > 1
    lines = list(dict.fromkeys((row.estimator, row.window) for row in rows))
    colours = series(str(line) for line in lines)
    for i, (estimator, window) in enumerate(lines):
        own = [row for row in rows if (row.estimator, row.window) == (estimator, window)]
        style = {"color": colours[str((estimator, window))], "marker": MARKERS[i % len(MARKERS)], "markersize": 4.5}
        label = f"{estimator}, K = {window}" if several else estimator
        shown = [row for row in own if row.snr > 0 and math.isfinite(row.snr)]
        signal.plot([row.horizon for row in shown], [row.snr for row in shown], label=label, **style)
        known = [row for row in own if not math.isnan(row.cosine)]
        errors = [0.0 if math.isnan(row.cosine_error) else row.cosine_error for row in known]
        bias.errorbar([row.horizon for row in known], [row.cosine for row in known], errors, capsize=2, **style)
    signal.set(xlabel="Horizon (steps)", ylabel="Signal-to-noise ratio of one estimate")
    bias.set(xlabel="Horizon (steps)", ylabel="Cosine to FullES", ylim=(-1.05, 1.05))
    for axes, scales in ((signal, {"xscale": "log", "yscale": "log"}), (bias, {"xscale": "log"})):
        if any(np.size(line.get_xdata()) for line in axes.lines):
            axes.set(**scales)
        axes.grid(**GRID)
    legend(signal)
    figure.suptitle(title)
    figure.savefig(path, dpi=160)
    return Path(path)
