"""What a scoreboard says of single tasks, as rows of text: ratios to chosen baselines, and the rates that won."""

from l2o.evaluation.scoreboard import Entry, Outcome, Scoreboard
from l2o.evaluation.scoreboard_texts import shown, with_error


def case_headings(board: Scoreboard) -> list[str]:
    """Return the headings of `case_rows`."""
    beyond = [f"at {board.beyond_factor:g} × the steps"] if board.beyond else []
    return ["task", "steps", "optimizer", "loss", *(f"/ {name}" for name in board.compare_with), *beyond]


def case_rows(board: Scoreboard) -> list[list[str]]:
    """Return a row for every task, horizon and entry: its final loss, and its ratio to each baseline of `compare_with`.

    A ratio is paired, and ± its standard error. The last column, where runs went on beyond their horizon, holds the
    loss at their end relative to its lowest. There are no rows where the scoreboard is compared with no baseline.
    """
    if not board.compare_with:
        return []
    entries = board.entries()
    return [[task.name, str(case[1]), *_case(board, case, entry)] for task, case in board.cases() for entry in entries]


def _case(board: Scoreboard, case: tuple[str, int], entry: Entry) -> list[str]:
    """Return the cells of an entry on one case."""
    loss = shown(float(board.finals(case, entry).mean()))
    ratios = [with_error(*board.relative(case, entry, name)) for name in board.compare_with]
    if not board.beyond:
        return [entry.label, loss, *ratios]
    rise = board.beyond.get((case, entry.optimizer)) if entry.rate is not None else None
    return [entry.label, loss, *ratios, "–" if rise is None else f"{shown(rise.mean)} ({shown(rise.worst)})"]


def tuned_optimizers(board: Scoreboard) -> list[str]:
    """Name the optimizers that were run at several rates."""
    several = {name for (_, name), found in board.outcomes.items() if len(found.rates) > 1}
    return [name for name in board.optimizers if name in several]


def rate_headings(board: Scoreboard) -> list[str]:
    """Return the headings of `rate_rows`."""
    return ["task", "steps", *tuned_optimizers(board)]


def rate_rows(board: Scoreboard) -> list[list[str]]:
    """Return a row for every task: the best rates of all tuned optimizers, one for each horizon.

    A rate that is an end of its grid is in bold (Markdown).
    """
    if not (names := tuned_optimizers(board)):
        return []
    horizons = {task.name: ", ".join(map(str, task.horizons)) for task in board.tasks}
    return [
        [task.name, horizons[task.name], *(_rates(board, task.name, task.horizons, name) for name in names)]
        for task in board.tasks
    ]


def _rates(board: Scoreboard, task: str, horizons: tuple[int, ...], name: str) -> str:
    """Return an optimizer's best rates on a task, one for each horizon."""
    return ", ".join(_rate(board.outcomes[(task, horizon), name]) for horizon in horizons)


def _rate(found: Outcome) -> str:
    rate = f"{found.rates[found.best]:.2g}"
    at_end = len(found.rates) > 1 and found.best in (0, len(found.rates) - 1)
    return f"**{rate}**" if at_end else rate
