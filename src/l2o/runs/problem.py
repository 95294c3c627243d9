"""The parts of a configuration that say what optimizers are compared on."""

from omegaconf import DictConfig, OmegaConf


def compared_optimizee(cfg: DictConfig) -> DictConfig:
    """The optimizee of the comparison: that of the training, with what `evaluation_optimizee` changes of it."""
    changed = cfg.copy()
    OmegaConf.set_struct(changed, False)
    changed.optimizee = OmegaConf.merge(changed.optimizee, changed.evaluation_optimizee)
    assert isinstance(changed.optimizee, DictConfig)
    return changed.optimizee


def compares(cfg: DictConfig) -> bool:
    """Whether a configuration asks for a comparison. With `evaluation=null` an experiment may still leave settings of
    the comparison, but nothing that could be built from them."""
    return "_target_" in (cfg.get("evaluation") or {})
