"""Small runs of the whole learner in float64. Their stored results guard every change of the code's structure.

`python tests/golden_runs.py FILE` writes the results anew; `tests/golden/learner.json` holds those that count.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from l2o.data import Dataset
from l2o.meta_gradients.imitation import Imitation
from l2o.meta_gradients.truncated_bptt import MetaGradient, TruncatedBPTT
from l2o.optimizees import Classifier, Optimizee, Quadratic, mlp
from l2o.optimizers import GAC, LSTM, Adam, LogAndSign, Partitioned, RNNProp, UpdateRule
from l2o.training.learner import MetaLearner

STORED = Path(__file__).with_name("golden") / "learner.json"
HORIZON, WINDOW, WINDOWS = 20, 5, 20


def lstm(**changes: Any) -> LSTM:
    return LSTM(LogAndSign(10.0), hidden_size=5, output_scale=0.1, **changes)


def classifier() -> Classifier:
    generator = torch.Generator().manual_seed(5)
    x, y = torch.rand(64, 4, 4, generator=generator), torch.randint(0, 3, (64,), generator=generator)
    return Classifier(mlp(16, [4], 3), Dataset(x[:40], y[:40], x[40:], y[40:]), batch_size=8, init_std=0.3)


def quadratic() -> Quadratic:
    return Quadratic(4, init_std=1.0)


def partitioned() -> Partitioned:
    rules = {"weights": lstm(), "biases": RNNProp(hidden_size=4)}
    return Partitioned(rules, {"weights": ".*weight", "biases": ".*bias"})


Case = tuple[Callable[[], UpdateRule], Callable[[], Optimizee], Callable[[], MetaGradient]]
CASES: dict[str, Case] = {
    "first order": (lstm, classifier, TruncatedBPTT),
    "first order, in small chunks": (lstm, classifier, lambda: TruncatedBPTT(max_replay_bytes=2**14)),
    "second order": (lstm, quadratic, lambda: TruncatedBPTT(second_order=True)),
    "last step only": (lambda: lstm(max_timescale=20), quadratic, lambda: TruncatedBPTT(last_step_only=True)),
    "imitation": (lstm, classifier, lambda: Imitation(Adam(lr=0.03), cooldown=0.5)),
    "partitioned": (partitioned, classifier, TruncatedBPTT),
    "averaging cells": (lambda: GAC(LogAndSign(10.0), hidden_size=5, averaging_cells=2), quadratic, TruncatedBPTT),
}


class Recorder(pl.Callback):
    """Keeps the training loss of every window."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.losses.append(trainer.callback_metrics["train/loss"].item())


def run(case: Case) -> dict[str, Any]:
    """Train for 20 windows and validate once: φ's norm, the loss of every window, the validation losses."""
    rule, optimizee, meta_gradient = case
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        torch.manual_seed(3)
        learner = MetaLearner(
            rule(),
            optimizee(),
            meta_gradient(),
            horizon=HORIZON,
            window=WINDOW,
            num_tasks=3,
            episodes_per_epoch=WINDOWS * WINDOW // HORIZON,
            validation_tasks=4,
            seed=11,
        )
        recorder = Recorder()
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        quiet |= {"enable_model_summary": False, "num_sanity_val_steps": 0, "log_every_n_steps": 1}
        trainer = pl.Trainer(
            accelerator="cpu", devices=1, max_epochs=1, inference_mode=False, callbacks=[recorder], **quiet
        )
        trainer.fit(learner)
        phi = torch.cat([parameter.detach().flatten() for parameter in learner.parameters()])
        return {
            "phi_norm": phi.norm().item(),
            "losses": recorder.losses,
            "val_final_loss": trainer.callback_metrics["val/final_loss"].item(),
            "val_mean_loss": trainer.callback_metrics["val/mean_loss"].item(),
        }
    finally:
        torch.set_default_dtype(before)


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = {name: run(case) for name, case in CASES.items()}
    Path(sys.argv[1]).write_text(json.dumps(found, indent=1) + "\n")
