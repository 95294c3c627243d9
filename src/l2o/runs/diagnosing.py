"""The command `python -m l2o diagnose`: how good estimates of the meta-gradient are at an optimizer's φ."""

import json
import math
from argparse import Namespace
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch

from l2o.checks import at_least_one, valid_seed
from l2o.data.sizes import images_or_digits
from l2o.deploy.hub import from_pretrained
from l2o.evaluation.diagnostics import Diagnosis, advice, diagnose
from l2o.files import write_text
from l2o.meta_gradients import (
    EvolutionStrategies,
    FullBPTT,
    FullES,
    Mean,
    MetaGradient,
    PersistentES,
    TruncatedBPTT,
)
from l2o.optimizees import Classifier, mlp
from l2o.optimizers import AdafacMLP, UpdateRule
from l2o.runs.provenance import commit, provenance

if TYPE_CHECKING:
    from rich.table import Table

ESTIMATORS: dict[str, Callable[[float], MetaGradient]] = {
    "full_es": lambda sigma: FullES(sigma),
    "es": lambda sigma: EvolutionStrategies(sigma),
    "pes": lambda sigma: PersistentES("window", sigma),
    "nres": lambda sigma: PersistentES("episode", sigma),
    "tbptt": lambda _: TruncatedBPTT(objective=Mean()),
    "full_bptt": lambda _: FullBPTT(objective=Mean()),
}
"""What can be diagnosed, for a σ. All minimise the mean loss, so that they can be compared."""


def estimator_named(name: str, sigma: float) -> MetaGradient:
    """Return the estimator of a name of `ESTIMATORS`, or GPES for "gpes:STEPS". Raises ValueError for any other."""
    kind, _, steps = name.partition(":")
    if kind == "gpes" and steps.isdigit():
        return PersistentES(int(steps), sigma)
    if name not in ESTIMATORS:
        raise ValueError(f"no estimator {name!r} to diagnose: choose of {', '.join(ESTIMATORS)} and gpes:STEPS")
    return ESTIMATORS[name](sigma)


def rule_named(name: str) -> UpdateRule:
    """Return a trained rule, or an AdafacMLP as it starts for "adafac_mlp"."""
    if name != "adafac_mlp":
        return from_pretrained(name)
    torch.manual_seed(0)
    return AdafacMLP()


def diagnosed(given: Namespace) -> list[Diagnosis]:
    """Diagnose as the command's arguments say: print the table, write the files, and return the rows."""
    from rich.console import Console

    from l2o.figures.diagnosis import plot_diagnosis

    at_least_one("diagnose", tasks=given.tasks, estimates=given.estimates, batch=given.batch)
    for horizon in (*given.horizons, *given.windows):
        at_least_one("diagnose", horizons_and_windows=horizon)
    rule, estimators = (
        rule_named(given.optimizer),
        {name: estimator_named(name, given.sigma) for name in given.estimators},
    )
    images = images_or_digits(given.images, given.side)
    classes = int(images.y_train.max()) + 1
    network = mlp(math.prod(images.x_train.shape[1:]), given.hidden, classes, activation="relu")
    optimizee = Classifier(network, images, batch_size=given.batch, init_std=0.1)
    sizes = given.tasks, given.estimates, 2 * given.estimates, valid_seed(given.seed)
    found = diagnose(rule, optimizee, estimators, FullES(given.sigma), given.horizons, given.windows, *sizes)
    given.folder.mkdir(parents=True, exist_ok=True)
    rows: list[Diagnosis] = []
    commit()  # as it is now: what follows may take hours
    for row in found:  # a long horizon takes its time: what is known so far is told, and kept
        rows.append(row)
        print(f"{row.estimator}, horizon {row.horizon}, window {row.window}: SNR {row.snr:.2g}", flush=True)
        said = {"provenance": provenance(), "rows": [_plain(one) for one in rows]}
        write_text(given.folder / "diagnosis.json", json.dumps(said, indent=1))
    Console().print(table(rows))
    print(f"figure: {plot_diagnosis(rows, given.folder / 'diagnosis.png', rule.label)}")
    size = sum(parameter.numel() for parameter in rule.parameters() if parameter.requires_grad)
    for line in filter(None, (_line(row, size) for row in rows)):
        print(line)
    return rows


def _plain(row: Diagnosis) -> dict[str, str | int | float | None]:
    """Return a row for a JSON file, which knows no nan."""
    return {key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in row._asdict().items()}  # fmt: skip


def _line(row: Diagnosis, num_parameters: int) -> str | None:
    """Return what `advice` says of an evolution strategy at a horizon, if it says anything."""
    found = None if row.estimator.endswith("bptt") else advice(row.snr / row.tasks, num_parameters)
    where = f"{row.estimator}, horizon {row.horizon}, window {row.window}"
    return f"{where}: {found}" if found else None


def table(rows: Iterable[Diagnosis]) -> "Table":
    """Return the rows as a table for the terminal."""
    from rich.box import SIMPLE_HEAD  # only the programs need rich: see the dependencies of l2o[train]
    from rich.table import Table

    made = Table(box=SIMPLE_HEAD)
    for name in ("estimator", "T", "K", "SNR", "cosine to FullES", "‖g‖", "noise", "inner steps"):
        made.add_column(name, justify="left" if name == "estimator" else "right")
    for row in rows:
        cosine = "–" if math.isnan(row.cosine) else f"{row.cosine:.2f} ± {row.cosine_error:.2f}"
        numbers = (f"{row.snr:.2g}", cosine, f"{row.signal:.2g}", f"{row.noise:.2g}", f"{row.inner_steps:,}")
        made.add_row(row.estimator, str(row.horizon), str(row.window), *numbers)
    return made
