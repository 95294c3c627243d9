"""What a comparison of optimizers has found, as files and as a table.

Shapes: B tasks, T steps of an episode.
"""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from l2o.evaluation import scores
from l2o.files import finite, write_text

if TYPE_CHECKING:
    from rich.table import Table

LAST_STEPS = 6
"""A final loss is the mean over so many last steps, because the loss of a single minibatch is noisy."""


def final_loss(losses: Tensor) -> Tensor:
    """Average losses (T, B) over the last six steps: (B,). A task that broke down counts as inf."""
    return broken_as_inf(losses[-LAST_STEPS:].mean(0))


def broken_as_inf(losses: Tensor) -> Tensor:
    """Replace nan by inf. (`nan_to_num` would also turn inf into the largest finite number.)"""
    return losses.where(~losses.isnan(), torch.inf)


def standard_error(values: Tensor) -> float | None:
    """Return the standard error of the mean of B independent values (B,).

    The error is None for a single value, and where a value is not finite.
    """
    return known((values.std() / math.sqrt(len(values))).item()) if len(values) > 1 else None


def ratio_of_means(losses: Tensor, others: Tensor) -> tuple[float | None, float | None]:
    """Return the ratio of the means of B losses and of B others, and its standard error.

    The others are another optimizer's on the same problems, so that what makes a problem hard for both cancels. The
    ratio is None where the others are 0 or anything is not finite. The error is None for a single problem, too.
    """
    mean = others.mean().item()
    if not mean or (ratio := known(losses.mean().item() / mean)) is None or not math.isfinite(mean):
        return None, None
    error = standard_error(losses - ratio * others)
    return ratio, None if error is None else error / mean


def known(value: float) -> float | None:
    """Return a finite number, and None for any other."""
    return value if math.isfinite(value) else None


class Entry(NamedTuple):
    """Hold what was found of one optimizer: losses f(θ_1) … f(θ_T) (T, B), and metrics at θ_T, each (B,).

    `lr` is the learning rate, if there is one. `pictures` (3, H, W) are those of the first tasks by name, at θ_T under
    "theta". `horizon` says for how many steps a learned optimizer was trained; None where nobody knows.
    """

    losses: Tensor
    metrics: dict[str, Tensor]
    baseline: bool
    lr: float | None = None
    tuning: dict[str, float] | None = None
    pictures: Mapping[str, list[Tensor]] = MappingProxyType({})
    horizon: int | None = None

    def band(self) -> dict[str, Tensor]:
        """Return the mean, the median, the 10 % and the 90 % quantile over tasks, each (T,)."""
        losses = broken_as_inf(self.losses)
        p10, median, p90 = (losses.quantile(q, dim=1, interpolation="nearest") for q in (0.1, 0.5, 0.9))
        return {"mean": losses.mean(1), "median": median, "p10": p10, "p90": p90}

    def steps_to(self, target: float) -> int | None:
        """Return the first step at which the mean over tasks and the last six steps has come down to `target`."""
        losses = broken_as_inf(self.losses).double().cpu().numpy()
        return scores.steps_to(losses, target, min(LAST_STEPS, len(losses)))


class Comparison(NamedTuple):
    """Hold what was found of several optimizers, by name, on the same problems and minibatches."""

    entries: Mapping[str, Entry]
    table_steps: Sequence[int] = (20, 50, 100)

    def finals(self) -> dict[str, float]:
        """Return the mean final loss of every optimizer."""
        return {name: final_loss(entry.losses).mean().item() for name, entry in self.entries.items()}

    @property
    def best_baseline(self) -> str | None:
        """Name the baseline with the lowest mean final loss; None where every baseline diverged on some problem."""
        finals = {n: loss for n, loss in self.finals().items() if self.entries[n].baseline and math.isfinite(loss)}
        return min(finals, key=finals.__getitem__, default=None)

    def loss(self) -> float:
        """Return the mean final loss of the first learned optimizer; where there is none, of the best baseline."""
        finals = self.finals()
        return next((finals[name] for name, entry in self.entries.items() if not entry.baseline), min(finals.values()))

    def summary(self) -> dict[str, Any]:
        """Return all that the table shows, and more, for JSON. None stands in the place of what is not finite."""
        best = self.best_baseline
        target = final_loss(self.entries[best].losses) if best else None
        first = next(iter(self.entries.values()))
        found = {
            "best_baseline": best,
            "num_tasks": first.losses.shape[1],
            "num_steps": first.losses.shape[0],
            "optimizers": {name: self._row(entry, target) for name, entry in self.entries.items()},
        }
        return finite(found)

    def save(self, folder: str | Path, also: Mapping[str, Any] | None = None) -> None:
        """Write `curves.csv` and `summary.json`, to which `also` is added, each of them whole or not at all."""
        (folder := Path(folder)).mkdir(parents=True, exist_ok=True)
        said = json.dumps({**self.summary(), **(also or {})}, indent=2, allow_nan=False)
        write_text(folder / "summary.json", f"{said}\n")
        write_text(folder / "curves.csv", self._curves())

    def table(self) -> "Table":
        """Return a table of losses at chosen steps, final losses ± standard errors, and steps to the best baseline's
        final loss. Its caption explains the columns, and says which optimizers diverged, with ∞ as their losses."""
        from rich.box import SIMPLE_HEAD  # only the programs need rich: see the dependencies of l2o[train]
        from rich.table import Table

        summary = self.summary()
        rows, best = summary["optimizers"], summary["best_baseline"]
        steps = sorted({step for row in rows.values() for step in row["loss_at"]}, key=int)
        metrics = [*dict.fromkeys(name for row in rows.values() for name in row["metrics"])]
        table = Table(box=SIMPLE_HEAD, padding=0, caption=self._caption(best))
        reached = f"steps to\n{best}" if best else "steps"
        shown = *(f"step\n{step}" for step in steps), "final loss", reached, *(m.replace("_", "\n") for m in metrics)
        for heading in ("optimizer", "lr", *shown):
            table.add_column(heading, justify="left" if heading == "optimizer" else "right", no_wrap=True)
        for name, row in rows.items():
            table.add_row(
                name,
                "–" if row["lr"] is None else f"{row['lr']:.2g}",
                *(_shown(row["loss_at"][step]) for step in steps),
                _shown(row["final_loss"], row["standard_error"]),
                "–" if row["steps_to_best_baseline"] is None else str(row["steps_to_best_baseline"]),
                *(_shown(row["metrics"].get(metric, "–")) for metric in metrics),
            )
        return table

    def _caption(self, best: str | None) -> str:
        num_tasks = next(iter(self.entries.values())).losses.shape[1]
        broken = ((name, int((~one.losses.isfinite()).any(0).sum())) for name, one in self.entries.items())
        diverged = ", ".join(f"{name} on {count}" for name, count in broken if count)
        what = "on one fresh problem" if num_tasks == 1 else f"mean over {num_tasks} fresh problems"
        what += f"; final loss: mean of the last {LAST_STEPS} steps{', ± its standard error' * (num_tasks > 1)}"
        what += f"; steps to {best}: until a loss is as low as its final one" if best else ""
        return f"{what}; ∞: diverged, {diverged} of the problems" if diverged else what

    def _curves(self) -> str:
        """Return the bands of all optimizers as CSV."""
        writer = csv.writer(text := io.StringIO())
        writer.writerow(["optimizer", "step", "mean", "median", "p10", "p90"])
        for name, entry in self.entries.items():
            rows = torch.stack(list(entry.band().values()), 1).tolist()
            writer.writerows([name, step, *(f"{value:.6g}" for value in row)] for step, row in enumerate(rows, 1))
        return text.getvalue()

    def _row(self, entry: Entry, target: Tensor | None) -> dict[str, Any]:
        band, final, num_steps = entry.band(), final_loss(entry.losses), len(entry.losses)
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
            "horizon": entry.horizon,
            "loss_at": {str(s): band["mean"][s - 1].item() for s in [*self.table_steps, num_steps] if s <= num_steps},
            "metrics": {name: value.mean().item() for name, value in entry.metrics.items()},
            "tuning": entry.tuning,
        }


def _shown(value: float | str | None, error: float | None = None) -> str:
    """Return a number, and its error if it has one, as the table shows it."""
    if isinstance(value, str):
        return value
    return "∞" if value is None else f"{value:.3g}" if error is None else f"{value:.3g} ± {error:.1g}"
