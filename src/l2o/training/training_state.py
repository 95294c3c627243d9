"""What a checkpoint must remember, on every rank, so that a run goes on as if it had never stopped."""

import json
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch import Generator, Tensor

from l2o.deploy import export
from l2o.optimizers.base import UpdateRule
from l2o.unroll import Episode

COUNTED = ("windows", "episodes", "skipped", "skipped_in_a_row", "lr_factor")
FOUND = ("best_loss", "best_phi", "initial_loss")


class ResumableModule(pl.LightningModule):
    """A module in the middle of an episode: counters, what was found so far, and each rank's episode and generator.

    φ and the meta-optimizer's state are in Lightning's part of the checkpoint.
    """

    rule: UpdateRule
    horizon: int
    episode: Episode | None
    generator: Generator
    windows: int
    episodes: int
    skipped: int
    skipped_in_a_row: int
    lr_factor: float
    best_loss: float
    best_phi: dict[str, Tensor]
    initial_loss: float

    _generator_state: Tensor

    def on_fit_start(self) -> None:
        self.generator = torch.Generator(self.device)
        if self.episode is not None:  # resumed
            self.generator.set_state(self._generator_state)
            self.episode = self.episode.to(self.device)

    def get_extra_state(self) -> dict[str, Any]:
        """Part of `state_dict`: so that spawned ranks hand it back to the process that waits for them."""
        return {name: getattr(self, name) for name in FOUND}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        for name in FOUND:
            setattr(self, name, state[name])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        episode = self.episode.to("cpu")._asdict() if self.episode else None
        checkpoint["l2o"] = {
            "rule": json.dumps(export.describe(self.rule)),
            "ranks": gather({"episode": episode, "generator": self.generator.get_state()}),
            **{name: getattr(self, name) for name in (*COUNTED, *FOUND)},
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        saved = checkpoint["l2o"]
        described = export.describe(self.rule)
        trained = export.build(json.loads(saved["rule"]))  # arguments newer than the checkpoint have their defaults
        if export.describe(trained) != described:
            raise ValueError(
                f"the checkpoint holds another optimizer, {saved['rule']}, than this run's, "
                f"{json.dumps(described)}: give the overrides that it was trained with"
            )
        if len(saved["ranks"]) != self.trainer.world_size:
            raise ValueError(
                f"the checkpoint is of a run on {len(saved['ranks'])} ranks, this one has {self.trainer.world_size}: "
                "set trainer, trainer.devices and trainer.num_nodes as they were"
            )
        own = saved["ranks"][self.global_rank]
        self.episode = Episode(**{"horizon": self.horizon} | own["episode"]) if own["episode"] else None
        self._generator_state = own["generator"]
        for name in COUNTED:
            setattr(self, name, saved[name])


def gather(value: Any) -> list[Any]:
    """Every rank's value, in order, on rank zero; an empty list on the others."""
    if not (dist.is_available() and dist.is_initialized()):
        return [value]
    values: list[Any] = [None] * dist.get_world_size() if dist.get_rank() == 0 else []
    dist.gather_object(value, values or None)
    return values
