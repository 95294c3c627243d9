"""What a sweep found, as a table: a row for each job, and the means over seeds."""

import io
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

SEED = "seed"
"""The key that is averaged over."""


class Row(NamedTuple):
    """Hold what became of one job: its number, what it was given of the keys that differ, and its loss.

    A job that diverged or failed has a `problem`, in one line, in the place of a loss. `more` has further columns.
    """

    number: int
    params: Mapping[str, Any]
    loss: float | None
    problem: str | None = None
    more: Mapping[str, str] = {}


class Mean(NamedTuple):
    """Hold the mean loss of the jobs that differ in their seed alone, its standard error, and how many there were.

    The error is None for one job. `missing` counts those that diverged or failed, which are left out.
    """

    params: Mapping[str, Any]
    loss: float
    error: float | None
    seeds: int
    missing: int

    def __str__(self) -> str:
        error = "" if self.error is None else f" ± {self.error:.1g}"
        missing = f", without {self.missing} that came to no loss" if self.missing else ""
        return f"{self.loss:.4g}{error} ({self.seeds} {'seeds' if self.seeds > 1 else 'seed'}{missing})"


def ordered(rows: Iterable[Row]) -> list[Row]:
    """Return the rows with the best first, those without a loss last."""
    return sorted(rows, key=lambda row: (row.loss is None, row.loss or 0.0, row.number))


def table(keys: Iterable[str], rows: Sequence[Row], job: str, heading: str) -> Table:
    """Return a table with a row for each job, in the order given; `job` and `heading` name its number and its loss."""
    made, keys = Table(box=SIMPLE_HEAD, padding=(0, 1)), list(keys)
    more = list(dict.fromkeys(name for row in rows for name in row.more))
    for name in (job, *keys, heading, *more):
        made.add_column(name, justify="right", overflow="fold")
    for row in rows:
        loss = row.problem if row.loss is None else f"{row.loss:.6g}"
        params = (short(row.params.get(key, "")) for key in keys)
        made.add_row(str(row.number), *params, loss, *(row.more.get(name, "–") for name in more))
    return made


def means_over_seeds(rows: Sequence[Row]) -> list[Mean]:
    """Return the means over jobs that differ in their seed alone, the best first; none where the seed is one and the
    same, or nothing else differs."""
    groups: dict[tuple[tuple[str, str], ...], list[Row]] = {}
    for row in rows:
        settings = tuple((key, str(value)) for key, value in row.params.items() if key != SEED)
        groups.setdefault(settings, []).append(row)
    if not any(SEED in row.params for row in rows) or len(groups) < 2:
        return []
    means = [_mean(group) for group in groups.values() if any(row.loss is not None for row in group)]
    return sorted(means, key=lambda mean: (mean.missing > 0, mean.loss))


def table_of_means(means: Sequence[Mean]) -> Table:
    """Return a table with a row for each setting, in the order given."""
    made, keys = Table(box=SIMPLE_HEAD, padding=(0, 1)), list(means[0].params)
    for name in (*keys, "mean over seeds"):
        made.add_column(name, justify="right", overflow="fold")
    for mean in means:
        made.add_row(*(short(mean.params[key]) for key in keys), str(mean))
    return made


def as_text(tables: Iterable[Table]) -> str:
    """Return tables as plain text, as wide as they are."""
    text = io.StringIO()
    console = Console(file=text, width=10_000, color_system=None)
    for one in tables:
        console.print(one)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


def short(value: Any) -> str:
    """Return a parameter as people read it."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def in_words(params: Mapping[str, Any]) -> str:
    """Return parameters as on a command line."""
    return " ".join(f"{key}={short(value)}" for key, value in params.items())


def _mean(group: Sequence[Row]) -> Mean:
    losses = [row.loss for row in group if row.loss is not None]
    error = statistics.stdev(losses) / math.sqrt(len(losses)) if len(losses) > 1 else None
    params = {key: value for key, value in group[0].params.items() if key != SEED}
    return Mean(params, statistics.fmean(losses), error, len(losses), len(group) - len(losses))
