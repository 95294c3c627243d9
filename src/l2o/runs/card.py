"""What the card of an exported optimizer says of the run that trained it. No folder of its author gets into it."""

import re
import shlex
from collections.abc import Mapping
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from l2o.deploy.model_card import LICENCE
from l2o.evaluation.comparison import Comparison

FOLDERS = re.compile(r"(?<![\w/.~…-])(?:~[^/\s'\",\[\]{}]*|\.{1,2})?/(?:[^'\",\[\]{}=]*/)?")
"""The folders of a path that starts at a root, at a home, or at . or .. – also inside quotes, lists and mappings."""


def of_run(cfg: DictConfig, comparison: Comparison | None = None) -> dict[str, Any]:
    """Return the card of a run of train.py: its problem, its command and, where there is one yet, its comparison.

    Of a path only the last part is kept: a card is shared, its author's folders are not.
    """
    return {
        "name": cfg.name,
        "optimizee": without_folders(trained_on(cfg)),
        "horizon": horizons(cfg),
        "seed": cfg.seed,
        "command": command(),
        "results": comparison.summary() if comparison else {},
        "license": LICENCE,
    }


def trained_on(cfg: DictConfig) -> Any:
    """Return what φ is trained on: the settings of the optimizee, or of the families by name."""
    families = _families(cfg)
    return {"families": families} if families else OmegaConf.to_container(cfg.optimizee, resolve=True)


def horizons(cfg: DictConfig) -> Any:
    """Return how many steps the episodes had: a number, or what each family says of it."""
    own = {name: family.get("horizon") or cfg.learner.horizon for name, family in _families(cfg).items()}
    return own or cfg.learner.horizon


def _families(cfg: DictConfig) -> dict[str, Any]:
    """Return the settings of the families that a run is trained on; empty where it is trained on one optimizee."""
    if not cfg.learner.get("families"):
        return {}
    families: Any = OmegaConf.to_container(cfg.learner.families, resolve=True)
    return families


def command() -> str:
    """Return the command line of the Hydra program that is running, as a shell takes it, without the user's folders."""
    hydra = HydraConfig.get()
    words = ["python", f"{hydra.job.name}.py"]
    for source in hydra.runtime.config_sources:
        if source.provider == "command-line":
            words += ["--config-dir", without_folders(source.path)]
    if hydra.job.config_name not in (None, hydra.job.name):
        words += ["--config-name", hydra.job.config_name]
    overrides = [without_folders(override) for override in hydra.overrides.task]
    return " ".join(map(shlex.quote, [*words, *overrides]))


def without_folders(value: Any) -> Any:
    """Return a resolved config, or text in it, with paths cut to their last part."""
    if isinstance(value, Mapping):
        return {key: without_folders(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_folders(item) for item in value]
    return FOLDERS.sub("", value) if isinstance(value, str) and "://" not in value else value
