"""Checkpoints on disk: there is always one that is whole."""

import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import CheckpointIO
from pytorch_lightning.utilities import rank_zero_only

from l2o.deploy.export import read_checkpoint
from l2o.files import replacing
from l2o.training.warm_start import without_episodes

log = logging.getLogger(__name__)
warn = rank_zero_only(log.warning)

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"

WARM_START = "warm_start.ckpt"
"""What was trained, without the episodes in flight: a small file, from which learner.warm_start goes on anywhere."""


class CheckpointFiles(CheckpointIO):
    """Reads and writes a run's checkpoints.

    A checkpoint is written beside its place, flushed to the disk and renamed. The one that stood there becomes
    `previous.ckpt` if it is intact. With `warm_start`, the same without its episodes is written beside `last.ckpt`, as
    `warm_start.ckpt`.
    A checkpoint that cannot be written, for example because the disk is full, costs
    one line and not the run; the checkpoints before it stay as they are.
    """

    def __init__(self, warm_start: bool = False):
        self.warm_start = warm_start

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        path = Path(path)
        try:
            with replacing(path) as temporary:
                torch.save(checkpoint, temporary)
                if path.name != WARM_START and path.exists() and damage(path) is None:
                    _keep(path)
        except (OSError, RuntimeError) as error:  # torch's writer raises RuntimeError where the disk is full
            reason = str(error).splitlines()[0]
            log.warning("'%s' could not be written (%s): the run goes on, the one before it stays", path, reason)
            return
        if path.name == LAST and self.warm_start:
            self.save_checkpoint(without_episodes(checkpoint), path.with_name(WARM_START))

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        return torch.load(path, map_location=map_location, weights_only=True)

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink()


def remove_leftovers(folder: Path) -> None:
    """Remove the unfinished checkpoints that killed runs have left in a folder, which nobody else may be using."""
    for name in (LAST, PREVIOUS, WARM_START):
        for path in folder.glob(f".*-{name}"):
            with suppress(OSError):
                path.unlink()


def find(ckpt_path: str | None, folder: Path) -> Path | None:
    """Return the checkpoint that a run goes on from, and say so in one line; None where the run starts afresh.

    `ckpt_path` names a file, or is "auto" for the last checkpoint in the run's own folder, if there is any. A
    `last.ckpt` that is damaged, or that is missing because a run was killed while it renamed its files, is replaced by
    the `previous.ckpt` beside it. Every other file that is missing, damaged or no checkpoint is refused by a
    ValueError; under "auto", a run whose checkpoints are all damaged starts afresh.
    """
    if not ckpt_path:
        return None
    auto = ckpt_path == "auto"
    wanted = folder / LAST if auto else Path(ckpt_path).expanduser()
    found = _intact(wanted, auto)
    if found:
        say = rank_zero_only(print)
        say(f"going on from window {read_checkpoint(found)['l2o'].get('windows', '?')} of '{found}'", flush=True)
    return found


def _intact(wanted: Path, auto: bool) -> Path | None:
    """Return the wanted checkpoint if it is intact, else the one before it; None to start afresh."""
    wrong = damage(wanted)
    if wrong is None:
        return wanted
    previous = wanted.with_name(PREVIOUS)
    if wanted.name == LAST and damage(previous) is None:  # previous.ckpt is the predecessor of last.ckpt alone
        warn("%s; the checkpoint before it, '%s', is taken in its place", wrong, previous)
        return previous
    if not auto:
        raise ValueError(wrong)
    if wanted.exists() or previous.exists():
        warn("%s, and there is no intact '%s': starting afresh", wrong, previous)
    return None


def damage(path: Path) -> str | None:
    """Return what is wrong with a checkpoint, or None where it is intact."""
    try:
        read_checkpoint(path)
    except ValueError as error:
        return str(error)
    return None


def _keep(path: Path) -> None:
    """Make a checkpoint the previous one. Where the file system has hard links, it keeps its own name, too, until the
    next one takes that name, so that there is no moment without a `last.ckpt`."""
    previous = path.with_name(PREVIOUS)
    link = path.with_name(f".{os.getpid()}-{PREVIOUS}")
    try:
        os.link(path, link)
        link.replace(previous)
    except OSError:
        path.replace(previous)
