"""What the card of an exported optimizer says of the run that trained it. No folder of its author gets into it."""

import re
import shlex
from collections.abc import Mapping
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from l2o.deploy.model_card import LICENCE
from l2o.evaluation.comparison import Comparison
from l2o.runs.problem import horizons, trained_on

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


def command() -> str:
    """Return the command line of the Hydra program that is running, as a shell takes it, without the user's folders.

    `learned.NAME=PATH` stands there as users write it, without the `++` that the program has put before it for Hydra.
    """
    hydra = HydraConfig.get()
    words = ["python", f"{hydra.job.name}.py"]
    for source in hydra.runtime.config_sources:
        if source.provider == "command-line":
            words += ["--config-dir", without_folders(source.path)]
    if hydra.job.config_name not in (None, hydra.job.name):
        words += ["--config-name", hydra.job.config_name]
    given = [re.sub(r"^\+\+(?=learned\.)", "", override) for override in hydra.overrides.task]
    overrides = [without_folders(override) for override in given]
    return " ".join(map(shlex.quote, [*words, *overrides]))


def without_folders(value: Any) -> Any:
    """Return a resolved config, or text in it, with paths cut to their last part."""
    if isinstance(value, Mapping):
        return {key: without_folders(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_folders(item) for item in value]
    return FOLDERS.sub("", value) if isinstance(value, str) and "://" not in value else value
