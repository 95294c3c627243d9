"""Speed and memory of meta-training against B, P, K and ranks, on CPUs: `python benchmarks/scaling_ranks.py`.

Each line is a process of its own, one thread per rank, through Lightning as in train.py: the digits MLP, one window to
warm up, then 200 inner steps. Steps per second are those of one rank, by the clock and by the rank's own processor time
(which other work on the machine hardly changes); task-steps, by the latter, are B · ranks as many. Memory is what a
rank's resident size grows by, at its peak.
"""

import multiprocessing
import resource
import time
import warnings
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy

from l2o.data import digits
from l2o.optimizees import Classifier, mlp
from l2o.optimizers import LSTM, LogAndSign
from l2o.training.learner import MetaLearner

STEPS = 200
CASES = [
    *((num_tasks, 20, 20, 1) for num_tasks in (1, 8, 64)),  # B, hidden units of the MLP, K, ranks
    *((8, units, 20, 1) for units in (20, 80, 320)),
    *((8, 20, window, 1) for window in (5, 20, 100)),
    *((8, 20, 20, ranks) for ranks in (1, 2)),
]


class Stopwatch(pl.Callback):
    """Times all windows but the first, and watches memory."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == 0:
            self.start = time.perf_counter(), time.process_time()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        seconds, busy = time.perf_counter() - self.start[0], time.process_time() - self.start[1]
        if trainer.is_global_zero:
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - self.before) / 1024
            report(pl_module, trainer.world_size, STEPS / seconds, STEPS / busy, grown)


def report(module: pl.LightningModule, ranks: int, by_clock: float, speed: float, megabytes: float) -> None:
    """Print a row of the table."""
    assert isinstance(module, MetaLearner)
    size, tasks = module.optimizee.layout.size, module.num_tasks
    row = (
        tasks,
        size,
        module.window,
        ranks,
        round(by_clock),
        round(speed),
        round(speed * tasks * ranks),
        round(megabytes),
    )
    print(f"| {' | '.join(map(str, row))} |", flush=True)


def run(num_tasks: int, units: int, window: int, ranks: int) -> None:
    """Meta-train for a moment."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rule = LSTM(LogAndSign(), output_scale=0.1)
    problem = Classifier(mlp(64, [units], 10), digits())
    module = MetaLearner(rule, problem, window=window, num_tasks=num_tasks, episodes_per_epoch=10)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy=DDPStrategy(start_method="fork") if ranks > 1 else "auto",
        max_epochs=1,
        limit_train_batches=STEPS // window + 1,
        limit_val_batches=0,
        callbacks=[Stopwatch()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module)


if __name__ == "__main__":
    print(
        "| B | P | K | ranks | steps/s | steps per processor s | task-steps | MB |\n|---|---|---|---|---|---|---|---|",
        flush=True,
    )
    for case in dict.fromkeys(CASES):
        process = multiprocessing.get_context("fork").Process(target=run, args=case)
        process.start()
        process.join()
