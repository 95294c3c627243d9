"""The optimizers that are compared: trained ones, as they are or with one part replaced, and baselines."""

from collections.abc import Collection, Mapping
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from l2o.deploy.description import changed
from l2o.deploy.hub import from_pretrained
from l2o.optimizers import UpdateRule
from l2o.runs.command_line.arguments import refuse_node

FOLDER = "folder"
"""The key of what `from_pretrained` takes, where an optimizer is given as a table."""


def open_learned(cfg: DictConfig) -> dict[str, UpdateRule]:
    """Return the optimizers of the key `learned`, by name.

    Each is given as what `from_pretrained` takes, or as a table: {folder: …, direction: adam} takes the same optimizer
    with the same φ, but with another value of an argument of its constructor. An optimizer that is null is left out.
    Raises ValueError, which names the key, for what is none of these.
    """
    given = cfg.get("learned") or {}
    nodes = OmegaConf.to_container(given, resolve=True) if OmegaConf.is_config(given) else given
    if not isinstance(nodes, Mapping):
        raise ValueError(f"learned must be a table of optimizers by name, as learned.NAME=PATH, got {nodes}")
    return {str(name): _opened(f"learned.{name}", node) for name, node in nodes.items() if node}


def open_baselines(cfg: DictConfig) -> dict[str, UpdateRule]:
    """Return the optimizers of the key `baselines`, by name; one that is null is left out.

    Raises ValueError, which names the key, for what is no update rule.
    """
    given = {str(name): node for name, node in (cfg.get("baselines") or {}).items() if node is not None}
    made = {name: instantiate(node) if OmegaConf.is_config(node) else node for name, node in given.items()}
    for name, rule in made.items():
        if not isinstance(rule, UpdateRule):
            example = f"+baselines.{name}={{_target_: l2o.optimizers.Adam}}"
            raise ValueError(f"baselines.{name} must be an update rule, as '{example}', got {given[name]}")
    return made


def refuse_same_names(learned: Collection[str], baselines: Collection[str]) -> None:
    """Raise ValueError where a trained optimizer has the name of a baseline: one of the two would not be seen."""
    if both := set(learned) & set(baselines):
        raise ValueError(f"learned.{min(both)} has the name of a baseline: give it another one")


def _opened(key: str, node: Any) -> UpdateRule:
    if not isinstance(node, Mapping):
        return from_pretrained(node)
    changes = {str(name): value for name, value in node.items() if name != FOLDER}
    if not node.get(FOLDER):
        raise ValueError(f"{key}.{FOLDER} is missing: it says which trained optimizer is meant, as {key}=PATH does")
    rule = from_pretrained(node[FOLDER])
    target = f"{type(rule).__module__}.{type(rule).__qualname__}"
    refuse_node(key, OmegaConf.create({"_target_": target, "_partial_": True, **changes}))
    return changed(rule, changes)
