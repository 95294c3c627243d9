"""What Lightning adds to a window: through `Trainer.fit`, with progress bar and loggers, and in a bare loop.

    python benchmarks/lightning.py

After each of Lightning's windows a bare one is run, so that what else happens on the machine hits both alike.
"""

import tempfile
import time
from statistics import median

import pytorch_lightning as pl
import torch
from jobs import JOBS, Job, ours
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger

from l2o.optimizers import LSTM, Identity, LogAndSign
from l2o.runs.checkpoints import Checkpoints
from l2o.runs.progress import Progress
from l2o.training.learner import MetaLearner


class Beside(Callback):
    """Seconds from one window's start to the next one's, and of a bare window run in between."""

    def __init__(self, bare):
        self.bare, self.end, self.pairs = bare, None, []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        start = time.perf_counter()
        self.bare()
        now = time.perf_counter()
        if self.end is not None:
            self.pairs.append((start - self.end, now - start))
        self.end = now


def compare(job: Job, windows: int) -> tuple[float, float]:
    """Median milliseconds of a window in Lightning and of a bare one."""
    optimizee = job.optimizee()
    preprocessing = Identity() if job.p is None else LogAndSign(job.p)
    beside = Beside(ours(optimizee, job.p, job.num_tasks, 20))
    learner = MetaLearner(
        LSTM(preprocessing, output_scale=0.01),
        optimizee,
        num_tasks=job.num_tasks,
        episodes_per_epoch=windows // 5,
        meta_optimizer=lambda parameters: torch.optim.Adam(parameters, 1e-4),
        validation_tasks=1,
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            accelerator="cpu",
            max_epochs=1,
            log_every_n_steps=5,
            logger=[CSVLogger(folder, "csv"), TensorBoardLogger(folder, "tensorboard")],
            callbacks=[Progress(), Checkpoints(folder), beside],
            enable_checkpointing=False,
            enable_model_summary=False,
            inference_mode=False,
            num_sanity_val_steps=0,
        )
        trainer.fit(learner)
    through, bare = zip(*beside.pairs[5:], strict=True)
    return 1e3 * median(through), 1e3 * median(bare)


def main() -> None:
    """Q and M, B = 1: the paper's window sizes."""
    for name, windows in (("Q", 200), ("M1", 60)):
        through, bare = compare(JOBS[name], windows)
        added = f"{through - bare:+.2f} ms, {through / bare - 1:+.1%}"
        print(f"{name}: {through:.2f} ms per window through Lightning, {bare:.2f} ms bare: {added}")


if __name__ == "__main__":
    main()
