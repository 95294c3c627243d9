"""Checkpoints on disk: always one that is whole."""

import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import CheckpointIO
from pytorch_lightning.utilities import rank_zero_only

from l2o.deploy.export import read_checkpoint

log = logging.getLogger(__name__)
warn = rank_zero_only(log.warning)

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"


class CheckpointFiles(CheckpointIO):
    """Writes beside the place, flushes to the disk, renames. What stood there becomes `previous.ckpt`, if it is intact.

    A checkpoint that cannot be written (a full disk) costs a line, not the run: the ones before it stay.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        path, part = Path(path), Path(path).with_suffix(".part")
        try:
            with open(part, "wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            if path.exists() and damage(path) is None:
                path.replace(path.with_name(PREVIOUS))
            part.replace(path)
            _flush_names(path.parent)
        except (OSError, RuntimeError) as error:  # torch's writer raises the latter
            with suppress(OSError):
                part.unlink()
            reason = str(error).splitlines()[0]
            log.warning("'%s' could not be written (%s): the run goes on, the one before it stays", path, reason)

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        return torch.load(path, map_location=map_location, weights_only=True)

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink()


def find(ckpt_path: str | None, folder: Path) -> Path | None:
    """The checkpoint to go on from: `ckpt_path`, or for "auto" the last one in the run's own folder, if there is any.

    One that is damaged is replaced by the `previous.ckpt` beside it, in one line. Raises ValueError where that is
    damaged too, except for "auto": then the run starts afresh.
    """
    if not ckpt_path:
        return None
    wanted = folder / LAST if ckpt_path == "auto" else Path(ckpt_path)
    wrong = damage(wanted)
    if wrong is None:
        return wanted
    previous = wanted.with_name(PREVIOUS)
    if previous != wanted and damage(previous) is None:
        warn("%s: going on from '%s'", wrong, previous)
        return previous
    if ckpt_path != "auto":
        raise ValueError(wrong)
    if wanted.exists():
        warn("%s, and there is no '%s': starting afresh", wrong, previous)
    return None


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint; None where it is intact."""
    try:
        read_checkpoint(path)
    except ValueError as error:
        return str(error)
    return None


def _flush_names(folder: Path) -> None:
    """A rename is on the disk only when its folder is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
