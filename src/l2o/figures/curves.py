"""The learning curves of a comparison: Figures 4 to 7 of Andrychowicz et al. (2016)."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from l2o.evaluation.comparison import Comparison, Entry
from l2o.figures.lines import Line, draw_lines
from l2o.figures.palette import readable


def plot_curves(comparison: Comparison, path: str | Path, title: str = "") -> Path:
    """Draw the mean loss over steps, and return `path`, a PNG.

    Two optimizers have a band from the 10 % to the 90 % quantile over the problems: the first learned one and the best
    baseline. More bands would only mix their colours.
    """
    entries = comparison.entries
    learned = next((name for name, entry in entries.items() if not entry.baseline), None)
    banded = {learned, comparison.best_baseline}
    lines = [_line(name, entry, name in banded) for name, entry in entries.items()]
    return plot_lines(lines, path, title, "10–90 % of the problems")


@readable
def plot_lines(lines: Sequence[Line], path: str | Path, title: str, band: str) -> Path:
    """Draw lines with a legend that says what a `band` shows, and return `path`, a PNG."""
    figure = Figure(figsize=(5.6, 4.4), layout="constrained")
    draw_lines(figure.add_subplot(), lines, title, band)
    figure.savefig(path, dpi=160)
    return Path(path)


def _line(name: str, entry: Entry, banded: bool) -> Line:
    values = {key: value.double().numpy() for key, value in entry.band().items()}
    label = name if entry.lr is None else f"{name} (lr {entry.lr:.2g})"
    band = (values["p10"], values["p90"]) if banded else None
    return Line(label, values["mean"], entry.baseline, band, entry.horizon, name)
