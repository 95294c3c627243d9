"""A run of evaluate.py on finished runs (`runs=[FOLDER,…]`): their curves in one figure, their averages over seeds.

Shapes: T steps of an episode, V validations, R runs.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from l2o.figures.curves import Line, plot_lines
from l2o.figures.validations import Progress, plot_validations
from l2o.files import write_text
from l2o.runs.alike import Group, groups_of, trained_alike
from l2o.runs.averages import Average, average, averages_of, pooled_baselines, progress_of
from l2o.runs.finished import read_runs
from l2o.runs.loggers import log_figure
from l2o.runs.titles import title_of


def draw_runs(cfg: DictConfig) -> None:
    """Draw finished runs together into the output folder, and write the numbers of the figures beside them.

    Raises ValueError, in one line, where a folder holds no run with curves, or runs are on different problems.
    """
    runs = read_runs(cfg.runs)
    groups, output = groups_of(runs), Path(cfg.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    title, figures = title_of(runs[0].cfg), {}
    if averages := [*averages_of(groups), *pooled_baselines(groups)]:
        band = "± 1 standard error over seeds" if len(runs) > 1 else "10–90 % of the problems"
        figures["curves"] = plot_lines(_lines(averages), output / "curves.png", title, band)
        write_text(output / "curves.csv", _csv(averages))
    if trained := [progress for group in groups if (progress := progress_of(group))]:
        if trained_alike([run for run in runs if run.validations]):
            figures["validations"] = plot_validations(trained, output / "validations.png", title)
            write_text(output / "validations.csv", _validations_csv(trained))
        else:
            print("validations.png is left out: the runs were validated on different problems, or after other horizons")
    Console().print(_table(groups, averages))
    loggers = list(instantiate(cfg.get("logger") or {}).values())
    for name, path in figures.items():
        log_figure(loggers, name, path)
    print(*(f"figure: {path}" for path in figures.values()), sep="\n")


def _lines(averages: Sequence[Average]) -> list[Line]:
    """Return averages as a figure draws them, with bands for learned optimizers and the best baseline.

    A band is one standard error where several seeds were averaged.
    """
    baselines = [shown for shown in averages if shown.baseline and np.isfinite(shown.finals).all()]
    best = min(baselines, key=lambda shown: np.mean(shown.finals), default=None)
    lines = []
    for shown in averages:
        band = shown.band if shown.errors is None else (shown.losses - shown.errors, shown.losses + shown.errors)
        banded = not shown.baseline or shown is best
        name = shown.name or shown.label
        lines.append(Line(shown.label, shown.losses, shown.baseline, band if banded else None, shown.horizon, name))
    return lines


def _table(groups: Sequence[Group], averages: Iterable[Average]) -> Table:
    """Return a table with a row for each line of the figure: final losses, and the best validation loss."""
    made = Table(box=SIMPLE_HEAD, padding=(0, 1))
    for heading in ("optimizer", "runs", "final loss"):
        made.add_column(heading, justify="left" if heading == "optimizer" else "right")
    for shown in averages:
        made.add_row(shown.label, str(len(shown.finals)), _number(shown.finals))
    for group in groups:
        best = [float(np.nanmin(run.validations.losses)) for run in group.runs if run.validations]
        if best:
            made.add_row(f"{group.label or 'φ'}: best validation", str(len(best)), _number(best))
    return made


def _number(values: Sequence[float]) -> str:
    """Return the mean of R numbers and its standard error as the table shows them."""
    mean, error = average(np.array(values)[:, None])
    if not np.isfinite(mean[0]):
        return "∞"
    return f"{mean[0]:.4g}" if error is None else f"{mean[0]:.4g} ± {error[0]:.1g}"


def _csv(averages: Iterable[Average]) -> str:
    """Return the curves, which are not smoothed, as CSV."""
    rows = [
        [shown.label, step, f"{loss:.6g}", "" if shown.errors is None else f"{shown.errors[step - 1]:.6g}"]
        for shown in averages
        for step, loss in enumerate(shown.losses, 1)
    ]
    return _written(["line", "step", "mean", "standard_error"], rows)


def _validations_csv(lines: Iterable[Progress]) -> str:
    rows = [
        [line.label, f"{line.meta_steps[n]:.6g}", f"{line.inner_steps[n]:.6g}", f"{loss:.6g}",
         "" if line.errors is None else f"{line.errors[n]:.6g}"]
        for line in lines
        for n, loss in enumerate(line.losses)
    ]  # fmt: skip
    return _written(["line", "meta_steps", "inner_steps", "mean", "standard_error"], rows)


def _written(heading: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(heading)
    writer.writerows(rows)
    return text.getvalue()
