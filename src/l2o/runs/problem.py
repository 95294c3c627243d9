"""The parts of a configuration that say what φ is trained on, and what optimizers are compared on."""

from typing import Any

from omegaconf import DictConfig, OmegaConf


def compared_optimizee(cfg: DictConfig) -> DictConfig:
    """Return the optimizee of the comparison: that of the training, with what `evaluation_optimizee` changes of it."""
    changed = cfg.copy()
    OmegaConf.set_struct(changed, False)
    changed.optimizee = OmegaConf.merge(changed.optimizee, changed.evaluation_optimizee)
    assert isinstance(changed.optimizee, DictConfig)
    return changed.optimizee


def compares(cfg: DictConfig) -> bool:
    """Say whether a configuration asks for a comparison.

    With `evaluation=null` an experiment may still leave settings of the comparison, but nothing that could be built
    from them.
    """
    return "_target_" in (cfg.get("evaluation") or {})


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
