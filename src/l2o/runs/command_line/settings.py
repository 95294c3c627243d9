"""The settings that a program reads by itself: of what kind each is, and which values could only go wrong."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from l2o.runs.command_line.kinds import NOT_NEGATIVE, POSITIVE, Bound, as_written, fits, in_words
from l2o.runs.command_line.read_keys import keys_of

KINDS: dict[str, Any] = {
    "name": str | int | float,
    "seed": int,
    "imports": list[str] | str | None,
    "output_scale": float,
    "output_dir": Path,
    "ckpt_path": Path | None,
    "early_stopping": int | None,
    "checkpoint_minutes": float,
    "device": str,
    "runs": list[str] | str | None,
    "workers": int,
    "adam_envelopes": Path | None,
    "scoreboard.rates_count": int,
    "scoreboard.rates_per_decade": int,
    "scoreboard.seeds": int,
    "scoreboard.scales": list[float],
    "scoreboard.cache": bool,
    "proposals.coordinates": int,
    "proposals.beside": list[str],
    "sweep.n_trials": int,
    "sweep.batch_size": int | None,
    "sweep.seed": int,
}


AT_LEAST_ONE = Bound(lambda value: value >= 1, "at least 1")
EPOCHS = Bound(lambda value: value == -1 or value >= 1, "at least 1 (or -1, for a run that only early stopping ends)")
SEED = Bound(lambda value: 0 <= value < 2**32, "from 0 to 2³² − 1")
BOUNDS = {
    "seed": SEED,
    "output_scale": POSITIVE,
    "checkpoint_minutes": NOT_NEGATIVE,
    "early_stopping": AT_LEAST_ONE,
    "proposals.coordinates": AT_LEAST_ONE,
    "workers": AT_LEAST_ONE,
    "scoreboard.rates_count": AT_LEAST_ONE,
    "scoreboard.rates_per_decade": AT_LEAST_ONE,
    "scoreboard.seeds": AT_LEAST_ONE,
    "sweep.seed": SEED,
    "sweep.n_trials": AT_LEAST_ONE,
    "sweep.batch_size": AT_LEAST_ONE,
    "learner.meta_optimizer.lr": NOT_NEGATIVE,
    "trainer.max_epochs": EPOCHS,
    "trainer.max_steps": EPOCHS,
    "trainer.check_val_every_n_epoch": AT_LEAST_ONE,
    "trainer.log_every_n_steps": AT_LEAST_ONE,
    "trainer.limit_train_batches": POSITIVE,
}


def refuse_settings(cfg: DictConfig, read: Collection[str]) -> None:
    """Raise ValueError, which names the key, for a setting that still lacks a value (`???`), that is of another kind
    than the program takes, or that is out of its bounds.

    `read` has the first parts of the keys that the program reads.
    """
    for key in keys_of(cfg):
        if key.split(".")[0] in read and _is_missing(cfg, key):
            raise ValueError(f"{key} has no value yet: give {key}=VALUE")
    for key, hint in KINDS.items():
        if key.split(".")[0] in read and _is_set(cfg, key):
            value = OmegaConf.select(cfg, key)
            plain = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
            if not fits(plain, hint):
                raise ValueError(f"{key} must be {in_words(hint)}, got {as_written(plain)}")
    for key, bound in BOUNDS.items():
        if key.split(".")[0] not in read:
            continue
        value = OmegaConf.select(cfg, key) if _is_set(cfg, key) else None
        if isinstance(value, int | float) and not isinstance(value, bool) and not bound.holds(value):
            raise ValueError(f"{key} must be {bound.wanted}, got {value}")


def _is_missing(cfg: DictConfig, key: str) -> bool:
    """Whether a key has `???` for its value, which says that a user has to give one."""
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(cfg, parent) if parent else cfg
    return isinstance(node, DictConfig) and OmegaConf.is_missing(node, name)


def _is_set(cfg: DictConfig, key: str) -> bool:
    """Whether a configuration has a key; one that is null or that waits for Hydra (`output_dir`) counts as well."""
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(cfg, parent) if parent else cfg
    return isinstance(node, DictConfig) and name in node and not OmegaConf.is_interpolation(node, name)
