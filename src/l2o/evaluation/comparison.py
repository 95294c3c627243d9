"""What a comparison of optimizers has found: as files, as a table.

Shapes: B tasks, T steps of an episode.
"""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch import Tensor

LAST_STEPS = 6
"""A minibatch's loss is noisy: a final loss is the mean over the last six steps."""


def final_loss(losses: Tensor) -> Tensor:
    """(T, B) -> (B,): the mean over the last six steps; a task that broke down counts as inf."""
    return broken_as_inf(losses[-LAST_STEPS:].mean(0))


def broken_as_inf(losses: Tensor) -> Tensor:
    """nan counts as inf. (`nan_to_num` would also turn inf into the largest finite number.)"""
    return losses.where(~losses.isnan(), torch.inf)


def standard_error(values: Tensor) -> float:
    """Of the mean of B independent values; nan for one."""
    return (values.std() / math.sqrt(len(values))).item() if len(values) > 1 else math.nan


def ratio_of_means(losses: Tensor, others: Tensor) -> tuple[float | None, float | None]:
    """Of B losses to those of another optimizer on the same problems, with its standard error: what makes a problem
    hard for both cancels. None where the others are 0."""
    mean = others.mean().item()
    if not mean:
        return None, None
    ratio = losses.mean().item() / mean
    return ratio, standard_error(losses - ratio * others) / mean


class Entry(NamedTuple):
    """One optimizer's part: losses f(θ_1) … f(θ_T) (T, B), metrics at θ_T each (B,), its learning rate if any; where
    there is something to see, pictures (3, H, W) of the first tasks by name, at θ_T under "theta"."""

    losses: Tensor
    metrics: dict[str, Tensor]
    baseline: bool
    lr: float | None = None
    tuning: dict[str, float] | None = None
    pictures: Mapping[str, list[Tensor]] = MappingProxyType({})

    def band(self) -> dict[str, Tensor]:
        """Mean, median, 10 % and 90 % quantile over tasks, each (T,)."""
        losses = broken_as_inf(self.losses)
        p10, median, p90 = (losses.quantile(q, dim=1, interpolation="nearest") for q in (0.1, 0.5, 0.9))
        return {"mean": losses.mean(1), "median": median, "p10": p10, "p90": p90}

    def steps_to(self, target: float) -> int | None:
        """The first step at which the mean over tasks and the six steps up to it is at or below `target`."""
        mean = broken_as_inf(self.losses).mean(1)
        width = min(LAST_STEPS, len(mean))
        reached = (mean.unfold(0, width, 1).mean(1) <= target).nonzero()
        return int(reached[0]) + width if len(reached) else None


class Comparison(NamedTuple):
    """Optimizers by name, on the same problems and minibatches."""

    entries: Mapping[str, Entry]
    table_steps: Sequence[int] = (20, 50, 100)

    @property
    def best_baseline(self) -> str | None:
        """The baseline with the lowest mean final loss."""
        finals = {
            name: final_loss(entry.losses).mean().item() for name, entry in self.entries.items() if entry.baseline
        }
        return min(finals, key=finals.__getitem__) if finals else None

    def summary(self) -> dict[str, Any]:
        """Everything that the table shows and more, ready for JSON."""
        best = self.best_baseline
        target = final_loss(self.entries[best].losses) if best else None
        return {
            "best_baseline": best,
            "num_tasks": next(iter(self.entries.values())).losses.shape[1],
            "num_steps": next(iter(self.entries.values())).losses.shape[0],
            "optimizers": {name: self._row(entry, target) for name, entry in self.entries.items()},
        }

    def save(self, folder: str | Path) -> None:
        """Write `curves.csv` and `summary.json`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "summary.json").write_text(json.dumps(finite(self.summary()), indent=2, allow_nan=False) + "\n")
        with open(folder / "curves.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["optimizer", "step", "mean", "median", "p10", "p90"])
            for name, entry in self.entries.items():
                rows = torch.stack(list(entry.band().values()), 1).tolist()
                writer.writerows([name, step, *(f"{value:.6g}" for value in row)] for step, row in enumerate(rows, 1))

    def table(self) -> Table:
        """Loss at chosen steps, final loss ± standard error, steps to the best baseline's final loss."""
        summary = self.summary()
        rows = summary["optimizers"]
        steps = sorted({step for row in rows.values() for step in row["loss_at"]}, key=int)
        metrics = list(dict.fromkeys(name for row in rows.values() for name in row["metrics"]))
        table = Table(box=SIMPLE_HEAD, padding=0, caption=f"mean over {summary['num_tasks']} fresh problems")
        reached = f"steps to\n{summary['best_baseline']}" if summary["best_baseline"] else "steps"
        headings = [metric.replace("_", "\n") for metric in metrics]
        for heading in ("optimizer", "lr", *(f"step\n{step}" for step in steps), "final loss", reached, *headings):
            table.add_column(heading, justify="left" if heading == "optimizer" else "right", no_wrap=True)
        for name, row in rows.items():
            table.add_row(
                name,
                "–" if row["lr"] is None else f"{row['lr']:.2g}",
                *(f"{row['loss_at'][step]:.3g}" for step in steps),
                f"{row['final_loss']:.3g} ± {row['standard_error']:.1g}",
                "–" if row["steps_to_best_baseline"] is None else str(row["steps_to_best_baseline"]),
                *(f"{row['metrics'][metric]:.3g}" for metric in metrics),
            )
        return table

    def _row(self, entry: Entry, target: Tensor | None) -> dict[str, Any]:
        band, final = entry.band(), final_loss(entry.losses)
        num_steps = len(entry.losses)
        ratio, error = (None, None) if target is None else ratio_of_means(final, target)
        return {
            "final_loss": final.mean().item(),
            "standard_error": standard_error(final),
            "final_median": final.median().item(),
            "mean_loss": band["mean"].mean().item(),
            "relative_to_best_baseline": ratio,
            "relative_standard_error": error,
            "steps_to_best_baseline": None if target is None else entry.steps_to(target.mean().item()),
            "baseline": entry.baseline,
            "lr": entry.lr,
            "loss_at": {str(s): band["mean"][s - 1].item() for s in [*self.table_steps, num_steps] if s <= num_steps},
            "metrics": {name: value.mean().item() for name, value in entry.metrics.items()},
            "tuning": entry.tuning,
        }


def finite(value: Any) -> Any:
    """For JSON, which knows neither inf nor nan: null stands for both."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
