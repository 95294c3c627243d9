"""The performance profile of a scoreboard: which share of runs ends with what loss, relative to tuned Adam."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator, PercentFormatter

from l2o.evaluation import scoreboard_files
from l2o.evaluation.scoreboard import REFERENCE, Entry, Scoreboard
from l2o.evaluation.scoreboard_page import page as page_of
from l2o.evaluation.scores import interquartile_mean, profile
from l2o.evaluation.standings import COLUMNS
from l2o.figures.lines import legend
from l2o.figures.palette import GREY, GRID, readable, styles
from l2o.figures.smoothing import Array
from l2o.files import write_text

FROM, TO = 0.1, 10.0
"""The losses that are drawn, relative to tuned Adam's; where runs fit into less, the axis is shorter."""

TICKS = (0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10)

MANY = 8
"""How many optimizers leave no room for the learned ones' second curves, at the best of a few rates."""

DRAWN = 8
"""How many learned optimizers are drawn at most, those with the best scores: more curves could not be told apart."""


@readable
def plot_profile(board: Scoreboard, path: str | Path) -> Path:
    """Draw a panel for each column of the scoreboard, and return `path`, a PNG.

    A curve gives the share of runs, over tasks, horizons and seeds, whose final loss is at most so many times tuned
    Adam's: the higher the better. What it lacks to 100 % at the right diverged, or lies beyond. Learned optimizers have
    solid lines, thick at a rate of 1 and thin at the best of a few; baselines have dashed ones. From MANY optimizers on
    the thin lines are left to the page's table, and so are all but the best DRAWN learned optimizers.
    """
    columns = {title: related for title, related in COLUMNS.items() if list(board.cases(related))}
    figure = Figure(figsize=(1.0 + 4.8 * len(columns), 4.8), layout="constrained")
    panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    look = _styles(board)
    ratios = {title: _ratios(board, related, look) for title, related in columns.items()}
    thresholds = _thresholds(ratios.values())
    for axes, (title, related) in zip(panels, columns.items(), strict=True):
        _panel(axes, ratios[title], thresholds, look)
        count = len(list(board.cases(related)))
        axes.set(title=f"{title} ({count} tasks × horizons)", xlabel=f"Final loss relative to tuned {REFERENCE}")
    panels[0].set_ylabel("Share of runs")
    panels[0].yaxis.set_major_formatter(PercentFormatter(1.0))
    figure.suptitle(f"Suite {board.suite}: runs that end with at most so many times tuned {REFERENCE}'s loss")
    legend(panels[0])
    figure.savefig(path, dpi=160)
    return Path(path)


def write_page(results: str | Path, page: str | Path) -> tuple[Path, Path]:
    """Write the page of a scoreboard.json and its figure, and return both paths.

    The figure is PAGE_profile.png, in the folder `figures` beside the page if there is one, else beside the page.
    """
    board, record = scoreboard_files.load(results)
    page = Path(page)
    folder = page.parent / "figures" if (page.parent / "figures").is_dir() else page.parent
    figure = plot_profile(board, folder / f"{page.stem}_profile.png")
    write_text(page, page_of(board, figure.relative_to(page.parent).as_posix(), record))
    return page, figure


def _styles(board: Scoreboard) -> dict[Entry, dict[str, object]]:
    """Give every optimizer a colour, and its best rate of several a thinner, lighter line than its rate of 1."""
    drawn = _drawn(board)
    chosen = styles({name: name in board.baselines for name in drawn})
    found = {}
    for entry in board.entries():
        if entry.optimizer not in drawn:
            continue
        if entry.rate is None and entry.optimizer not in board.baselines and len(board.optimizers) >= MANY:
            continue
        if entry.optimizer in board.baselines:
            style = {"linewidth": 1.6, "zorder": 2}
        elif entry.rate is not None:
            style = {"linewidth": 2.2, "zorder": 3}
        else:
            style = {"linewidth": 1.2, "alpha": 0.55, "zorder": 3}
        found[entry] = chosen[entry.optimizer] | style
    return found


def _drawn(board: Scoreboard) -> list[str]:
    """Name the baselines, and the learned optimizers with the best interquartile means, in the scoreboard's order."""

    def score(name: str) -> float:
        entry = Entry(name, name, 1.0)
        return interquartile_mean(np.concatenate([board.ratios(case, entry, REFERENCE) for _, case in board.cases()]))

    best = sorted((name for name in board.optimizers if name not in board.baselines), key=score)[:DRAWN]
    return [name for name in board.optimizers if name in board.baselines or name in best]


def _ratios(board: Scoreboard, related: bool, entries: Iterable[Entry]) -> dict[Entry, Array]:
    """Give the final losses of all runs of a column as multiples of the reference's."""
    cases = [case for _, case in board.cases(related)]
    return {entry: np.concatenate([board.ratios(case, entry, REFERENCE) for case in cases]) for entry in entries}


def _thresholds(columns: Iterable[dict[Entry, Array]]) -> Array:
    """Choose the multiples that all panels show, so that panels can be compared."""
    every = np.concatenate([values for ratios in columns for values in ratios.values()])
    finite = every[np.isfinite(every) & (every > 0)]
    low, high = (FROM, TO) if not len(finite) else (max(FROM, finite.min() / 1.2), min(TO, finite.max() * 1.2))
    return np.geomspace(min(low, 0.5), max(high, 2.0), 400)


def _panel(axes: Axes, runs: dict[Entry, Array], thresholds: Array, styles: dict[Entry, dict[str, object]]) -> None:
    for entry, values in runs.items():
        axes.plot(thresholds, profile(values, thresholds), label=entry.label, **styles[entry])  # type: ignore[arg-type]
    axes.axvline(1.0, color=GREY, linewidth=0.9, zorder=1)
    axes.set(xscale="log", xlim=(thresholds[0], thresholds[-1]), ylim=(0, 1.02))
    axes.set_xticks([tick for tick in TICKS if thresholds[0] <= tick <= thresholds[-1]])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(**GRID)
