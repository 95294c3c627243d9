"""Going on from what a run has trained, without its episodes: with other ranks, on another machine, on new problems."""

from collections.abc import Mapping
from typing import Any, Protocol

import pytorch_lightning as pl
from torch.optim import Optimizer

from l2o.deploy.export import read_checkpoint
from l2o.training.resuming import load_counters
from l2o.training.slots import Slot, restart
from l2o.training.training_state import TrainingState


def without_episodes(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Return a checkpoint without the episodes in flight, which are most of its bytes: a file to start from."""
    kept = {key: value for key, value in checkpoint["l2o"].items() if key != "ranks"}
    return {**checkpoint, "l2o": kept}


def read(path: str) -> dict[str, Any]:
    """Return the contents of a file to start from: a checkpoint, with its episodes or without them.

    Raises ValueError where it is missing, damaged or another kind of file.
    """
    try:
        return read_checkpoint(path)
    except ValueError as error:
        raise ValueError(f"learner.warm_start: {error}") from error


class Learner(Protocol):
    """Name what of a learner takes part in a warm start."""

    slots: list[Slot]
    state: TrainingState

    @property
    def trainer(self) -> pl.Trainer: ...
    def take_over(self, checkpoint: dict[str, Any]) -> None: ...
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any: ...


def begin(learner: Learner, path: str) -> None:
    """Let a learner go on from φ, the meta-optimizer's memory, the average and the counters of a file.

    The windows of the file count as windows of the run: the meta learning rate goes on in a course that is laid out
    over both. Epochs are the trainer's own, and begin anew.
    """
    saved = read(path)
    learner.take_over(saved)
    learner.load_state_dict(saved["state_dict"])
    load_moments(learner.trainer.optimizers[0], saved["optimizer_states"][0])
    learner.state.windows_before = learner.state.windows
    learner.state.schedule = None  # the rates are this run's own, from where the file stands in its course
    load_counters(learner.slots, saved["l2o"])
    restart(learner.slots)


def load_moments(optimizer: Optimizer, saved: Mapping[str, Any]) -> None:
    """Give a meta-optimizer what another one has remembered of each parameter. It keeps its own settings.

    Raises ValueError where the two are not of the same kind, or have other parameters.
    """
    own = optimizer.state_dict()
    sizes, other = ([len(group["params"]) for group in part["param_groups"]] for part in (own, saved))
    keys = [set(group) - {"initial_lr"} for part in (own, saved) for group in part["param_groups"]]
    if sizes != other or any(key != keys[0] for key in keys):
        raise ValueError(
            "learner.warm_start: the file was trained with another kind of meta-optimizer than this run's "
            f"{type(optimizer).__name__}: set learner.meta_optimizer as it was"
        )
    optimizer.load_state_dict({"state": saved["state"], "param_groups": own["param_groups"]})
