"""A scoreboard as tables in the terminal: one for each column, and one of single tasks where a suite asks for it."""

from typing import TYPE_CHECKING

from l2o.evaluation.scoreboard import REFERENCE, Scoreboard
from l2o.evaluation.scoreboard_cases import case_headings, case_rows
from l2o.evaluation.scoreboard_texts import briefly, counted
from l2o.evaluation.standings import COLUMNS, mean_cost, standing

if TYPE_CHECKING:
    from rich.table import Table

HEADINGS = {
    "loss": f"final loss relative to tuned {REFERENCE} (IQM)",
    "95 %": "its 95 % interval",
    "/best": "final loss relative to the best tuned baseline (IQM)",
    "worst": f"the worst task's final loss relative to tuned {REFERENCE}",
    "div.": "share of runs that diverge",
    "steps": f"speed-up over tuned {REFERENCE} in steps",
    "time": "the same in seconds",
    "ms": "milliseconds of a step",
    "kB": "thousand bytes of state",
}
"""What the numbers of a row are; the first one with its interval is what decides."""


def rows(board: Scoreboard, related: bool | None) -> list[list[str]]:
    """Return a row of text for every entry over the tasks of a column, the best first; none where it has no tasks."""
    found = []
    for entry in board.entries():
        sums = standing(board, entry, related)
        if sums is None:
            continue
        cost = mean_cost(board, entry, related)
        row = [
            entry.label,
            briefly(sums.to_adam.value),
            f"{briefly(sums.to_adam.low)}–{briefly(sums.to_adam.high)}",
            briefly(sums.to_best.value),
            briefly(sums.worst),
            f"{sums.diverged:.0%}",
            f"{sums.speed_up:.2f}",
            "–" if sums.speed_up_in_time is None else f"{sums.speed_up_in_time:.2f}",
            "–" if cost is None else f"{cost.milliseconds:.2g}",
            "–" if cost is None else f"{cost.state_bytes / 1000:.4g}",
        ]
        found.append((sums.to_adam.value, row))
    return [row for _, row in sorted(found, key=lambda pair: pair[0])]


def tables(board: Scoreboard) -> "list[Table]":
    """Return the tables of a scoreboard.

    There is one for each of the two columns that has tasks (related to training, and never seen), and before them one
    of single tasks where the scoreboard is compared with chosen baselines.
    """
    made = []
    if lines := case_rows(board):
        made.append(_table(f"suite {board.suite}, task by task", case_headings(board), lines, left=3))
    columns = {title: rows(board, related) for title, related in COLUMNS.items()}
    for title, lines in columns.items():
        if lines:
            count = sum(task.related == COLUMNS[title] for task in board.tasks)
            full = f"suite {board.suite}, {title}: {counted(count, 'task')}"
            made.append(_table(full, ["optimizer", *HEADINGS], lines))
    if made:
        made[-1].caption = "; ".join(f"{short}: {meaning}" for short, meaning in HEADINGS.items())
    return made


def _table(title: str, headings: list[str], lines: list[list[str]], left: int = 1) -> "Table":
    """Return a table whose first columns, so many as `left` says, are flush left."""
    from rich.box import SIMPLE_HEAD  # only the programs need rich: see the dependencies of l2o[train]
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, padding=0, title=title)
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="left" if number < left else "right", no_wrap=True)
    for line in lines:
        table.add_row(*line)
    return table
