"""Several jobs on one machine: what each may use."""

import os
from typing import Any

import torch
from hydra.experimental.callback import Callback
from omegaconf import DictConfig


class Share(Callback):
    """Gives each job `threads` threads, and one GPU by the job's number where there are any (CUDA_VISIBLE_DEVICES; of
    those in it, if it is set). A process that has used its GPU once keeps it for the jobs that follow."""

    def __init__(self, threads: int = 1):
        self.threads = threads

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        torch.set_num_threads(self.threads)
        self.before = os.environ.get("CUDA_VISIBLE_DEVICES")
        gpus = visible_gpus()
        if gpus and not torch.cuda.is_initialized():
            os.environ["CUDA_VISIBLE_DEVICES"] = gpus[config.hydra.job.num % len(gpus)]

    def on_job_end(self, config: DictConfig, job_return: Any, **kwargs: Any) -> None:
        if self.before is None:
            os.environ.pop("CUDA_VISIBLE_DEVICES", None)
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = self.before


def visible_gpus() -> list[str]:
    """The names of this process's GPUs, as CUDA_VISIBLE_DEVICES has them."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is None:
        return [str(index) for index in range(torch.cuda.device_count())]
    return [name.strip() for name in given.split(",") if name.strip()]
