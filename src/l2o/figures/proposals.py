"""The figure of what rules propose on one trajectory (Andrychowicz et al. 2016, appendix: visualizations)."""

from pathlib import Path

from matplotlib.figure import Figure

from l2o.evaluation.proposals import Proposals
from l2o.figures.lines import legend
from l2o.figures.palette import GREY, readable, styles


@readable
def plot_proposals(shown: Proposals, path: str | Path, title: str = "") -> Path:
    """Draw a column for each coordinate, the gradients above the updates proposed, and return `path`, a PNG.

    The first rule is a learned one, the others are baselines.
    """
    count = len(shown.coordinates)
    figure = Figure(figsize=(1.2 + 3.6 * count, 4.6), layout="constrained")
    grid = figure.subplots(2, count, sharex=True, squeeze=False, height_ratios=(1, 2))
    steps = range(1, len(shown.gradients) + 1)
    look = styles({rule: number > 0 for number, rule in enumerate(shown.updates)})
    for column, name in enumerate(shown.coordinates):
        above, below = grid[:, column]
        above.plot(steps, shown.gradients[:, column].numpy(), color=GREY, linewidth=1.0)
        above.set_title(name, fontsize="medium")
        for rule, updates in shown.updates.items():
            below.plot(steps, updates[:, column].numpy(), label=rule, linewidth=1.6, **look[rule])
        below.set(xlabel="Step", xlim=(1, max(2, len(steps))))
        for axes in (above, below):
            axes.axhline(0, color="black", linewidth=0.5)
            axes.grid(True, linestyle=":", linewidth=0.6)
            axes.ticklabel_format(axis="y", style="sci", scilimits=(-3, 3))
    grid[0, 0].set_ylabel("Gradient")
    grid[1, 0].set_ylabel("Proposed update")
    legend(grid[1, 0])
    figure.suptitle(title)
    figure.savefig(path, dpi=160)
    return Path(path)
