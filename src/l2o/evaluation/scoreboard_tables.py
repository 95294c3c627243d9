"""A scoreboard as a table in the terminal, and as a page in Markdown."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from l2o.evaluation.scoreboard import REFERENCE, Entry, Scoreboard
from l2o.evaluation.standings import COLUMNS, mean_cost, standing

if TYPE_CHECKING:
    from rich.table import Table

HEADINGS = {
    "loss": f"final loss relative to tuned {REFERENCE}",
    "95 %": "its interval",
    "/best": "final loss relative to the best tuned baseline",
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
        cost = mean_cost(board, entry)
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
    """Return a table for each of the two columns that has tasks: related to training, and never seen."""
    from rich.box import SIMPLE_HEAD  # only the programs need rich: see the dependencies of l2o[train]
    from rich.table import Table

    made = []
    for title, related in COLUMNS.items():
        if not (lines := rows(board, related)):
            continue
        count = sum(task.related == related for task in board.tasks)
        table = Table(box=SIMPLE_HEAD, padding=0, title=f"suite {board.suite}, {title}: {_counted(count, 'task')}")
        for heading in ("optimizer", *HEADINGS):
            table.add_column(heading, justify="left" if heading == "optimizer" else "right", no_wrap=True)
        for line in lines:
            table.add_row(*line)
        made.append(table)
    if made:
        made[-1].caption = "; ".join(f"{short}: {meaning}" for short, meaning in HEADINGS.items())
    return made


def page(board: Scoreboard, figure: str | None = None) -> str:
    """Return the whole scoreboard in Markdown. `figure` is the place of its performance profile, if there is one."""
    parts = [f"# Scoreboard: suite `{board.suite}`", EXPLANATION]
    for title, related in COLUMNS.items():
        if lines := rows(board, related):
            parts += [f"## {title.capitalize()}", _markdown(("optimizer", *HEADINGS.values()), lines)]
    if figure:
        parts += [f"![Share of runs over their final loss relative to tuned {REFERENCE}]({figure})"]
    parts += ["## Every task", _every_task(board), "## The tasks", _described(board)]
    if published := _published(board):
        parts += ["## Against the published envelopes of Adam", ABOUT_ENVELOPES, published]
    return "\n\n".join(parts) + "\n"


EXPLANATION = f"""\
A final loss is the mean over the last 5 % of the steps. It is shown relative to that of {REFERENCE} with its learning
rate tuned for the same task and horizon: less than 1 is better than tuned {REFERENCE}, ∞ is a run that diverged. Every
baseline was tuned in the same way, for each task and horizon, over as many learning rates. A learned optimizer stands
twice: at a rate of 1, where nothing is tuned, and at the best of a few for each task.

The number of a row is the interquartile mean over all tasks, horizons and seeds, with a 95 % interval of seeds drawn
anew within each task. The worst is the largest mean of a single task and horizon. A run diverges where it ends with a
loss that is not finite, or more than twice that at its start. The speed-up says how many times faster than tuned
{REFERENCE} an optimizer comes down to the final loss of {REFERENCE}, and counts 0 where it never does. Milliseconds are
those of a whole inner step with one task, the gradient included, on the machine that made this page; the state is what
the optimizer remembers between two steps."""


ABOUT_ENVELOPES = """\
How many times more steps the published envelope of tuned Adam takes to an optimizer's final loss: more than 1 is better
than the published Adam. The envelope is of smoothed training losses, so that its first few hundred steps look slower
than they were."""


def _every_task(board: Scoreboard) -> str:
    """Return a line for every task and horizon: losses of the baselines, and every other entry relative to Adam."""
    entries = [entry for entry in board.entries() if entry.optimizer not in board.baselines]
    others = [name for name in board.baselines if name != REFERENCE]
    lines = []
    for task, case in board.cases():
        adam = float(board.finals(case, Entry(REFERENCE, REFERENCE, None)).mean())
        relative = [_with_error(*board.relative(case, Entry(name, name, None), REFERENCE)) for name in others]
        relative += [_with_error(*board.relative(case, entry, REFERENCE)) for entry in entries]
        lines.append([f"{task.name}{'' if task.related else ' *'}", str(case[1]), shown(adam), *relative])
    headings = ["task", "steps", f"loss of tuned {REFERENCE}", *others, *(entry.label for entry in entries)]
    legend = f"\\* never seen. Losses are relative to tuned {REFERENCE}, ± their standard errors."
    return f"{_markdown(headings, lines)}\n\n{legend}"


def _described(board: Scoreboard) -> str:
    return "\n".join(
        f"- **{task.name}** ({'related' if task.related else 'never seen'}; "
        f"{', '.join(map(str, task.horizons))} steps){': ' + task.description if task.description else ''}"
        for task in board.tasks
    )


def _published(board: Scoreboard) -> str:
    """Return a table of speed-ups over published envelopes; empty where no task has one."""
    lines = []
    for task, case in board.cases():
        if task.published in board.envelopes:
            ups = [board.published_speed_up(task, case, entry) for entry in board.entries()]
            lines.append([task.name, str(case[1]), *("–" if up is None else f"{up:.2f}" for up in ups)])
    return _markdown(["task", "steps", *(entry.label for entry in board.entries())], lines) if lines else ""


def _markdown(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(headings) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (headings, rule, *lines))


def shown(value: float) -> str:
    """Return a number with three digits, and ∞ for one that is not finite."""
    return f"{value:.3g}" if math.isfinite(value) else "∞"


def briefly(value: float) -> str:
    """Return the same, with one digit from a thousand on: 2e+07, so that a row still fits into 80 columns."""
    return f"{value:.0e}" if 1000 <= value < math.inf else shown(value)


def _with_error(value: float, error: float | None) -> str:
    return shown(value) if error is None else f"{shown(value)} ± {error:.1g}"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
