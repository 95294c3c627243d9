"""The rows of a grid's table: what each job was given, what it came to, and what its comparison found."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override, QuotedString
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from hydra_plugins.l2o_sweeper._outcomes import Unfinished, in_words, read_outcome
from hydra_plugins.l2o_sweeper._report import Sweep
from hydra_plugins.l2o_sweeper._rows import Row

NAMED = 3
"""So many failed jobs are named in the last line, which stays short; the table has all of them."""


def rows_of(jobs: Sequence[Sequence[Override]], ended: Sequence[JobReturn], sweep: Sweep) -> list[Row]:
    """Return a row for each job, in their order. `jobs` are their overrides, `ended` what the launcher brought back."""
    return [_row(*job, sweep) for job in zip(range(len(jobs)), jobs, ended, strict=True)]


def refuse_failed(ended: Sequence[JobReturn]) -> None:
    """Raise ValueError, in one line, where a job failed. With L2O_TRACEBACK=1 the first one's own error is raised."""
    failed = {number: job for number, job in enumerate(ended) if job.status != JobStatus.COMPLETED}
    if not failed:
        return
    first: Any = next(iter(failed.values()))._return_value  # its property would write a line of its own
    if os.environ.get("L2O_TRACEBACK") == "1":
        raise first
    named = "; ".join(f"job {number}: {_reason(job)}" for number, job in list(failed.items())[:NAMED])
    further = f"; and {len(failed) - NAMED} more" if len(failed) > NAMED else ""
    raise ValueError(f"{len(failed)} of {len(ended)} jobs failed: {named}{further}")


def _row(number: int, overrides: Sequence[Override], ended: JobReturn, sweep: Sweep) -> Row:
    last = {override.get_key_element().lstrip("+"): override for override in overrides}
    params = {key: _plain(last[key]) for key in sweep.keys if key in last}
    if ended.status != JobStatus.COMPLETED:
        return Row(number, params, None, f"failed: {_reason(ended)}")
    outcome = read_outcome(sweep.folder / "outcomes", number)
    if outcome is None:
        return Row(number, params, None, "failed: it left no outcome")
    if outcome.diverged:
        return Row(number, params, None, f"diverged: {outcome.diverged}")
    return Row(number, params, outcome.loss, None, _compared(ended, sweep))


def _reason(ended: JobReturn) -> str:
    """Return in one line why a job failed."""
    error: Any = ended._return_value
    return str(error) if isinstance(error, Unfinished) else in_words(error)


def _plain(override: Override) -> Any:
    """Return the value that a job was given: a number, or text as on the command line."""
    value = override.value()
    if isinstance(value, QuotedString):
        return value.text
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number else override.get_value_element_as_str()


def _compared(ended: JobReturn, sweep: Sweep) -> Mapping[str, str]:
    """Return what a job's comparison found of its first learned optimizer, where it has made one."""
    folder = OmegaConf.select(ended.hydra_cfg, "hydra.runtime.output_dir") if ended.hydra_cfg is not None else None
    path = Path(str(folder)) / "summary.json"
    if folder is None or not path.is_file():
        return {}
    found = json.loads(path.read_text(encoding="utf-8")).get("optimizers", {})
    row = next((row for row in found.values() if not row.get("baseline")), None)
    if row is None:
        return {}
    columns = {"final loss": ("final_loss", "standard_error")} if sweep.heading == "validation loss" else {}
    columns["relative to best baseline"] = ("relative_to_best_baseline", "relative_standard_error")
    return {name: _shown(row.get(value), row.get(error)) for name, (value, error) in columns.items()}


def _shown(value: float | None, error: float | None) -> str:
    return "∞" if value is None else f"{value:.3g}" if error is None else f"{value:.3g} ± {error:.1g}"
