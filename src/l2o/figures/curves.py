"""The paper's figures, from a comparison."""

from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from torch import Tensor

from l2o.evaluation.comparison import Comparison

BASELINE_COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:brown", "tab:gray")
LEARNED_COLOURS = ("black", "tab:purple", "tab:pink", "tab:olive", "tab:cyan")


def plot_curves(comparison: Comparison, path: str | Path, title: str = "") -> Path:
    """Draw the mean loss over steps, with a band from the 10 % to the 90 % quantile, and return `path`, a PNG.

    As in Figures 4 to 7 of the paper, the axis of losses is logarithmic, the lines of learned optimizers are solid and
    the first of them is black, and those of baselines are dashed.
    """
    figure = Figure(figsize=(5.6, 4.2), layout="constrained")
    axes = figure.add_subplot()
    colours = {True: iter(BASELINE_COLOURS), False: iter(LEARNED_COLOURS)}
    entries = comparison.entries.values()
    highest = max(entry.losses[0].nan_to_num(nan=0.0, posinf=0.0).max().item() for entry in entries)
    ceiling = 10 * highest if highest > 0 else torch.inf  # out of sight, and near enough for the axis's margins
    for name, entry in comparison.entries.items():
        band = {key: _drawable(value, ceiling) for key, value in entry.band().items()}
        steps, colour = range(1, len(entry.losses) + 1), next(colours[entry.baseline], "tab:gray")
        label = name if entry.lr is None else f"{name} (lr {entry.lr:.2g})"
        axes.plot(
            steps,
            band["mean"],
            color=colour,
            label=label,
            zorder=2 if entry.baseline else 3,
            linestyle="--" if entry.baseline else "-",
            linewidth=1.3 if entry.baseline else 2.0,
        )
        axes.fill_between(steps, band["p10"], band["p90"], color=colour, alpha=0.1, linewidth=0)
    scale = "log" if any((np.asarray(line.get_ydata(), float) > 0).any() for line in axes.lines) else "linear"
    num_steps = max(len(entry.losses) for entry in entries)
    axes.set(xlabel="Step", ylabel="Loss", title=title, yscale=scale, xlim=(1, max(num_steps, 2)))
    if highest > 0:  # a diverging optimizer leaves the picture at the top instead of flattening the others
        axes.set_ylim(top=min(axes.get_ylim()[1], 2 * highest))
    label_plainly(axes)
    axes.grid(True, which="major", linestyle=":", linewidth=0.6)
    axes.legend(frameon=True, fontsize="small")
    figure.savefig(path, dpi=160)
    return Path(path)


def _drawable(values: Tensor, ceiling: float) -> np.ndarray:
    """Leave gaps where a curve is not finite, and cut it at the ceiling."""
    return values.where(values.isfinite(), torch.nan).clamp(max=ceiling).numpy()


def label_plainly(axes: Axes) -> None:
    """Write 0.3, not 3 × 10⁻¹, and label what lies between the powers of ten only where few powers are shown."""
    low, high = axes.get_ylim()
    narrow = high < 30 * low
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    if axes.get_yscale() == "log":
        axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:g}" if narrow else ""))
    axes.tick_params(axis="y", which="minor", labelsize="small")
