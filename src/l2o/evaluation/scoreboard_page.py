"""A scoreboard as a page in Markdown, for a run's folder and for the documentation."""

from collections.abc import Mapping, Sequence
from typing import Any

from l2o.evaluation.scoreboard import REFERENCE, Entry, Scoreboard
from l2o.evaluation.scoreboard_cases import case_headings, case_rows, rate_headings, rate_rows
from l2o.evaluation.scoreboard_tables import HEADINGS, rows
from l2o.evaluation.scoreboard_texts import shown, with_error
from l2o.evaluation.scores import BEYOND_STEPS
from l2o.evaluation.standings import COLUMNS


def page(board: Scoreboard, figure: str | None = None, record: Mapping[str, Any] | None = None) -> str:
    """Return the whole scoreboard in Markdown.

    `figure` is the place of its performance profile, if there is one. `record` is what the file of a scoreboard says of
    its run besides the numbers (the seeds, the device, the version of PyTorch): where it is given, the page repeats it.
    """
    parts = [f"# Scoreboard: suite `{board.suite}`", INTRODUCTION, _reproduced(board, record or {}), HOW_TO_READ]
    if learned := [entry for entry in board.entries() if entry.optimizer not in board.baselines]:
        parts.append(AS_THEY_ARE if all(entry.rate == 1.0 for entry in learned) else TWO_ROWS)
    for title, related in COLUMNS.items():
        if lines := rows(board, related):
            parts += [f"## {title.capitalize()}", _markdown(("optimizer", *HEADINGS.values()), lines)]
    if figure:
        parts += [f"![Share of runs over their final loss relative to tuned {REFERENCE}]({figure})"]
    if lines := case_rows(board):
        parts += ["## Task by task", _markdown(case_headings(board), lines), _about_cases(board)]
    else:
        parts += ["## Every task", _every_task(board)]
    if lines := rate_rows(board):
        parts += ["## The learning rates that won", ABOUT_RATES, _markdown(rate_headings(board), lines)]
    parts += ["## The tasks", _described(board)]
    if published := _published(board):
        parts += ["## Against the published envelopes of Adam", ABOUT_ENVELOPES, published]
    return "\n\n".join(parts) + "\n"


INTRODUCTION = f"""\
This page compares optimizers on the tasks of a suite, each at several horizons (numbers of steps). Learned optimizers
stand beside baselines: hand-designed optimizers whose learning rate was tuned separately for every task and horizon.
All optimizers met the same problems: with the same seed they start from the same parameters and see the same
minibatches. The measure of everything is {REFERENCE} with a tuned constant learning rate."""


HOW_TO_READ = f"""\
## How to read the tables

- **Final loss**: the mean of the training loss over the last 5 % of a run's steps.
- **Ratio** (relative loss): the final loss divided by that of tuned {REFERENCE} on the same task, horizon and seed.
  Less than 1 is better than tuned {REFERENCE}; 0.5 is half its loss; ∞ is a run whose loss is not a finite number.
- **IQM** (interquartile mean): the ratios of all tasks, horizons and seeds are sorted, a quarter of them is cut off at
  either end, and the rest is averaged. A few very good or very bad tasks therefore do not decide. The first number of a
  row is the IQM, and rows are sorted by it.
- **Interval**: the 95 % interval of the IQM, by a bootstrap that draws the seeds of every task anew. It says how far
  other seeds would move the number; it says nothing about other tasks.
- **Related to training**: tasks of a kind that the general optimizers of this package may be trained on, though not
  these tasks themselves. **Never seen**: tasks with a property that is held out of all their training, as
  `conf/suite/held_out.yaml` lists them. An optimizer generalises if it holds up there. An optimizer that was trained
  elsewhere may have seen anything.
- **Worst task**: the largest ratio of a single task and horizon, averaged over the seeds.
- **Diverged**: the run ended with a loss that is not finite, or more than twice the loss at its start.
- **Speed-up**: how many times fewer steps (or less time) than tuned {REFERENCE} an optimizer needs to come down to the
  final loss of tuned {REFERENCE}; 0 where it never does.
- **Milliseconds and bytes**: the median time of one whole inner step of one task, the gradient included, on the machine
  of the run, and what the optimizer remembers between two steps. Both are means over the tasks of the table."""

AS_THEY_ARE = """\
The updates of learned optimizers are taken as they are (a learning rate of 1, `scoreboard.scales=[1.0]`), so that
nothing was tuned."""

TWO_ROWS = """\
A learned optimizer has two rows. In the first one its updates are taken as they are (a learning rate of 1), so that
nothing was tuned. In the second one, "best of …", they are multiplied by the best of a few factors, chosen for each
task and horizon as the learning rate of a baseline is."""


ABOUT_RATES = """\
For each horizon of a task, in this order, the learning rate with the lowest final loss; for learned optimizers the
factor of their updates. A rate in **bold** is the first or the last one that was tried: a rate beyond it may be better
still."""


ABOUT_ENVELOPES = f"""\
How many times more steps the published envelope of tuned {REFERENCE} takes to come down to an optimizer's final loss:
more than 1 is better than the published {REFERENCE}. The envelope was made of smoothed training losses, so that its
first few hundred steps look slower than they were."""


def _reproduced(board: Scoreboard, record: Mapping[str, Any]) -> str:
    """Say with which commands the page was made, and from how many runs."""
    learned = " ".join(f"learned.{name}=…" for name in board.optimizers if name not in board.baselines)
    command = f"python evaluate.py suite={board.suite} workers=2 {learned}".rstrip()
    text = f"""\
## How to make this page again

```sh
{command} hydra.run.dir=outputs/scoreboard
python -m l2o scoreboard outputs/scoreboard docs/scoreboard.md
```

For … give what `l2o.from_pretrained` takes: a folder, a checkpoint, or the name of an optimizer in the package. A
command that was stopped goes on where it was when it is given again."""
    if not record:
        return text
    counts = sorted({len(rule["rates"]) for rule in record["rules"].values()})
    rates = " or ".join(map(str, counts))
    device, version = record["device"], record["torch"]
    return f"""\
{text} Every optimizer was run with {record["seeds"]} seeds, and every
baseline at {rates} learning rates, on the device {device} with PyTorch {version}."""


def _about_cases(board: Scoreboard) -> str:
    """Say what the columns of the table of single tasks are."""
    text = """\
The columns that begin with / hold the final loss divided by that of a tuned baseline on the same seeds, ± the standard
error of this ratio."""
    if not board.beyond:
        return text
    factor, width = f"{board.beyond_factor:g}", BEYOND_STEPS
    return f"""\
{text} The last column is of runs that were told the horizon of the second column
and then went on to {factor} times as many steps: the mean loss of their last {width} steps, divided by the lowest mean
of {width} steps in a row. It is taken from the mean curve of all seeds; in parentheses stands that of the worst seed.
It is about 1 where an optimizer does no harm after its horizon."""


def _every_task(board: Scoreboard) -> str:
    """Return a row for every task and horizon: losses of the baselines, and every other entry relative to Adam."""
    entries = [entry for entry in board.entries() if entry.optimizer not in board.baselines]
    others = [name for name in board.baselines if name != REFERENCE]
    lines = []
    for task, case in board.cases():
        adam = float(board.finals(case, Entry(REFERENCE, REFERENCE, None)).mean())
        relative = [with_error(*board.relative(case, Entry(name, name, None), REFERENCE)) for name in others]
        relative += [with_error(*board.relative(case, entry, REFERENCE)) for entry in entries]
        lines.append([f"{task.name}{'' if task.related else ' *'}", str(case[1]), shown(adam), *relative])
    headings = ["task", "steps", f"loss of tuned {REFERENCE}", *others, *(entry.label for entry in entries)]
    legend = (
        f"\\* never seen. After the third column, losses are relative to tuned {REFERENCE}, ± their standard errors."
    )
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
