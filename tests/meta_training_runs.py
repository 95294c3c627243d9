"""A meta-training by the published recipe, whose curve is kept: `AdafacMLP` (h = 4) on one family of small classifiers.

The recipe is that of Celo, µLO and ELO (Metz et al. 2022 used it first): PES with σ = 0.01 and windows of K = 50 steps,
eight antithetic pairs, horizons drawn log-uniformly between 100 and 2000 steps, episodes out of phase (here two slots
of four pairs each), the mean of a window's losses as the objective, each capped at 1.5 times its task's first loss (at
this initialisation about 1.5 ln C for C classes), and 500 meta-updates of Adam at 3·10⁻⁴. The classifier is a ReLU
network 64–32–10 on scikit-learn's digits, with minibatches of 64.

`tests/golden/meta_training.json` holds the meta-loss of three seeds: of the first twenty meta-updates each one,
and of all of them the means of every fifty. To write it anew (a few minutes on a core of its own):

    PYTHONPATH=tests python tests/meta_training_runs.py tests/golden/meta_training.json
"""

import json
import sys
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from l2o.data import digits
from l2o.meta_gradients import PersistentES
from l2o.optimizees import Classifier, mlp
from l2o.optimizers import AdafacMLP
from l2o.training.families import Family
from l2o.training.horizons import LogUniform
from l2o.training.learner import MetaLearner

STORED = Path(__file__).with_name("golden") / "meta_training.json"
SEEDS, UPDATES, FIRST, EVERY = (0, 1, 2), 500, 20, 50


class Losses(pl.Callback):
    """Keeps the meta-loss of every meta-update."""

    def __init__(self) -> None:
        self.found: list[float] = []

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.found.append(trainer.callback_metrics["train/loss"].item())


def learner(seed: int) -> MetaLearner:
    """Make what is trained, from a seed on which φ_0 depends as well."""
    torch.manual_seed(seed)
    classifier = Classifier(mlp(64, [32], 10, activation="relu"), digits(), batch_size=64, init="truncated_normal")
    return MetaLearner(
        AdafacMLP(hidden_size=4),
        classifier,
        PersistentES(sigma=0.01, cap=1.5),
        horizon=100,  # of the validation at the end alone
        window=50,
        episodes_per_epoch=UPDATES // 2,
        meta_optimizer=lambda parameters: torch.optim.Adam(parameters, lr=3e-4),
        meta_scheduler=None,
        clip_norm=None,
        validation_tasks=1,
        seed=seed,
        families={"digits": Family(classifier, num_tasks=4, num_slots=2, horizon=LogUniform(100, 2000))},
    )


def curve(seed: int, updates: int = UPDATES) -> list[float]:
    """Train for some meta-updates, and return the meta-loss of each."""
    losses = Losses()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    quiet |= {"enable_model_summary": False, "num_sanity_val_steps": 0, "log_every_n_steps": 1}
    pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        limit_train_batches=updates,
        inference_mode=False,
        callbacks=[losses],
        **quiet,
    ).fit(learner(seed))
    return losses.found


def means(losses: list[float]) -> list[float]:
    """Return the mean of every fifty meta-losses."""
    return [sum(losses[start : start + EVERY]) / EVERY for start in range(0, len(losses), EVERY)]


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = {str(seed): curve(seed) for seed in SEEDS}
    stored = {seed: {"first": losses[:FIRST], "means": means(losses)} for seed, losses in found.items()}
    Path(sys.argv[1]).write_text(json.dumps(stored, indent=1) + "\n")
