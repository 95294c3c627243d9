"""One window of meta-training on two gloo ranks, in float64; each rank writes what it has then. Argument: a folder."""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor

from l2o.data import Dataset
from l2o.meta_gradients.persistent import PersistentES
from l2o.meta_gradients.truncated_bptt import TruncatedBPTT
from l2o.optimizees import Classifier, Optimizee, Quadratic, mlp
from l2o.optimizees.base import Batch
from l2o.optimizers import LSTM
from l2o.training.families import Choices, Family
from l2o.training.horizons import Uniform
from l2o.training.learner import MetaLearner
from l2o.training.training_state import COUNTED, FOUND

TASKS, STEPS, VALIDATION, SEED = 3, 4, 5, 7
CASES = [(problem, second_order) for problem in ("quadratic", "classifier") for second_order in (False, True)]


def optimizee(problem: str) -> Optimizee:
    if problem == "nan":
        return NanOnOne(3)
    if problem == "quadratic":
        return Quadratic(3)
    generator = torch.Generator().manual_seed(5)
    x = torch.rand(30, 2, 2, generator=generator)
    y = torch.arange(30) % 3
    return Classifier(mlp(4, [3], 3), Dataset(x[:20], y[:20], x[20:], y[20:]), batch_size=4, init_std=0.3)


def families() -> dict[str, Family]:
    """Two slots of classifiers and quadratics of several sizes; an episode is a window or two."""
    classifier = optimizee("classifier")
    quadratics = Choices([Quadratic(2), Quadratic(3), Quadratic(4)])
    return {
        "images": Family(Choices([classifier]), TASKS, num_slots=2, weight=2.0, horizon=Uniform(4, 8)),
        "quadratics": Family(quadratics, 2),
    }


def learner(problem: str, second_order: bool) -> MetaLearner:
    """With SGD at meta learning rate 1, φ moves by minus the meta-gradient."""
    torch.manual_seed(0)
    several = problem in ("families", "pes")
    own = {"families": families(), "episodes_per_epoch": 3} if several else {"episodes_per_epoch": 1}
    estimator = PersistentES() if problem == "pes" else TruncatedBPTT(second_order)
    problem = "quadratic" if several else problem
    return MetaLearner(
        LSTM(hidden_size=3, output_scale=0.1),
        optimizee(problem),
        estimator,
        horizon=STEPS,
        window=STEPS,
        num_tasks=TASKS,
        **own,
        meta_optimizer=partial(torch.optim.SGD, lr=1.0),
        final_lr_fraction=1.0,
        clip_norm=None,
        validation_tasks=VALIDATION,
        seed=SEED,
    )


class NanOnOne(Quadratic):
    """Not finite on the second rank alone."""

    def loss_and_grad(self, theta: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        loss, grad = super().loss_and_grad(theta, batch)
        return (loss * float("nan") if dist.get_rank() == 1 else loss), grad


class Report(pl.Callback):
    def __init__(self, path: Path):
        self.path = path

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, MetaLearner)
        found: dict[str, Any] = {name: getattr(pl_module.state, name) for name in (*FOUND, *COUNTED)}
        found |= {"phi": pl_module.rule.state_dict(), "mean_loss": trainer.callback_metrics["val/mean_loss"].item()}
        torch.save(found, f"{self.path}-{trainer.global_rank}.pt")


def main(folder: Path) -> None:
    torch.set_default_dtype(torch.float64)
    for problem, second_order in [*CASES, ("nan", False), ("families", False), ("pes", False)]:
        trainer = pl.Trainer(
            accelerator="cpu",
            devices=2,
            strategy=DDPStrategy(start_method="fork"),
            max_epochs=1,
            callbacks=[Report(folder / f"{problem}-{second_order}")],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            inference_mode=False,
        )
        module = learner(problem, second_order)
        trainer.fit(module)
        torch.save(module.best_loss, folder / f"{problem}-{second_order}-main.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
