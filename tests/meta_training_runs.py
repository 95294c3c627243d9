"""A meta-training by the published recipe, whose course is kept: `AdafacMLP` (h = 4) on a family of one classifier.

The recipe is that of Celo, µLO and ELO (Metz et al. 2022 used it first): PES with σ = 0.01 and windows of K = 50 steps,
eight antithetic pairs, horizons drawn log-uniformly between 100 and 2000 steps, the mean of a window's losses as the
objective, each capped at 1.5 times its task's first loss (at this initialisation about 1.5 ln C for C classes), and
Adam at 3·10⁻⁴, without clipping. The classifier is a ReLU network 64–32–10 on scikit-learn's digits, with minibatches
of 64, and starts as Haiku's networks do. It is stopped after 500 meta-updates, where the published runs have 5 000 to
100 000.

What differs from the published code: the pairs lie in two slots of four, and the pairs of a slot share a horizon and a
place in their episodes, where the code gives every pair its own. A window's losses are those after its steps, not those
before them. Episodes end between two windows, and never within one. Minibatches are drawn independently, not without
replacement through an epoch. The images are scikit-learn's, because these need no download.

`tests/golden/meta_training.json` holds what three seeds did: the meta-loss and the norm of the meta-gradient at each of
the first twenty meta-updates, φ after these, the means of every fifty meta-losses, and how good φ was before and after
on problems that are the same every time. The file is written anew by the following command, which takes a few minutes
on a core of its own:

    PYTHONPATH=tests python tests/meta_training_runs.py tests/golden/meta_training.json
"""

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor

from l2o import seeds
from l2o.data import digits
from l2o.evaluation.curves import loss_curves
from l2o.meta_gradients import PersistentES
from l2o.optimizees import Classifier, mlp
from l2o.optimizers import AdafacMLP, UpdateRule
from l2o.seeds import Stream
from l2o.training.families import Family
from l2o.training.horizons import LogUniform
from l2o.training.learner import MetaLearner

STORED = Path(__file__).with_name("golden") / "meta_training.json"
SEEDS, UPDATES, FIRST, EVERY = (0, 1, 2), 500, 20, 50

HORIZONS, TASKS, CAP = (100, 300, 1000), 16, 1.5
"""How many steps the problems have on which φ is measured, how many problems there are, and the cap of their losses."""


class Run(NamedTuple):
    """Hold what a meta-training has done."""

    losses: list[float]  # of every meta-update
    norms: list[float]  # of the meta-gradient of every meta-update
    early: Tensor  # (|φ|,)  φ after the first twenty meta-updates
    before: Tensor  # (HORIZONS, TASKS)  how good φ was at the start, see `measured`
    after: Tensor  # (HORIZONS, TASKS)  how good it was at the end

    @property
    def means(self) -> list[float]:
        """Give the mean of every fifty meta-losses."""
        return [sum(self.losses[start : start + EVERY]) / EVERY for start in range(0, len(self.losses), EVERY)]


class Course(pl.Callback):
    """Keeps the meta-loss and the norm of the meta-gradient of every meta-update, and φ after the first ones."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.norms: list[float] = []
        self.early = torch.empty(0)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        gradients = [p.grad.flatten() for p in pl_module.parameters() if p.grad is not None]
        self.losses.append(trainer.callback_metrics["train/loss"].item())
        self.norms.append(torch.cat(gradients).norm().item())
        if len(self.losses) == FIRST:
            self.early = phi(pl_module)


def classifier() -> Classifier:
    """Make the networks that are trained by the rule."""
    return Classifier(mlp(64, [32], 10, activation="relu"), digits(), batch_size=64, init="truncated_normal")


def learner(seed: int) -> MetaLearner:
    """Make what is trained, from a seed on which φ_0 depends as well."""
    torch.manual_seed(seed)
    optimizee = classifier()
    return MetaLearner(
        AdafacMLP(hidden_size=4),
        optimizee,
        PersistentES(sigma=0.01, cap=CAP),
        horizon=100,  # of the validation at the end alone
        window=50,
        episodes_per_epoch=UPDATES // 2,
        meta_optimizer=lambda parameters: torch.optim.Adam(parameters, lr=3e-4),
        meta_scheduler=None,
        clip_norm=None,
        validation_tasks=1,
        seed=seed,
        families={"digits": Family(optimizee, num_tasks=4, num_slots=2, horizon=LogUniform(100, 2000))},
    )


def phi(module: torch.nn.Module) -> Tensor:
    """Give a copy of φ as one vector."""
    return torch.cat([p.detach().flatten().clone() for p in module.parameters()])


def measured(rule: UpdateRule) -> Tensor:
    """Return the mean loss over the first 100, 300 and 1000 steps of problems that are the same every time, (3, TASKS).

    The losses are capped as in training. The problems, their starts and their minibatches do not depend on φ, so that
    the difference between two φ has little noise, unlike the meta-loss of training.
    """
    generator = seeds.generator(0, Stream.EVALUATION)
    first, losses = loss_curves(rule, classifier(), TASKS, max(HORIZONS), generator)
    limit = CAP * first
    losses = torch.minimum(losses.nan_to_num(torch.inf), limit)
    return torch.stack([losses[:horizon].mean(0) for horizon in HORIZONS])


def fit(trained: MetaLearner, updates: int) -> Course:
    """Train for some meta-updates."""
    course = Course()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    quiet |= {"enable_model_summary": False, "num_sanity_val_steps": 0, "log_every_n_steps": 1}
    pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        limit_train_batches=updates,
        inference_mode=False,
        callbacks=[course],
        **quiet,
    ).fit(trained)
    return course


def run(seed: int) -> Run:
    """Do the whole meta-training of a seed."""
    trained = learner(seed)
    before = measured(trained.rule)
    course = fit(trained, UPDATES)
    return Run(course.losses, course.norms, course.early, before, measured(trained.rule))


def kept(found: Run) -> dict[str, Any]:
    """Return what the file holds of a run."""
    return {
        "first": found.losses[:FIRST],
        "norms": found.norms[:FIRST],
        "phi": found.early.tolist(),
        "means": found.means,
        "before": found.before.mean(1).tolist(),
        "after": found.after.mean(1).tolist(),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    chosen = [int(seed) for seed in sys.argv[2:]] or SEEDS
    Path(sys.argv[1]).write_text(json.dumps({str(seed): kept(run(seed)) for seed in chosen}, indent=1) + "\n")
