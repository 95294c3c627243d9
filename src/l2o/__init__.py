"""Learned optimizers: meta-train them, compare them honestly, and use them like any `torch.optim.Optimizer`.

The names below are imported when they are first used, so that `import l2o` costs little more than `import torch`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from l2o.deploy.export import load, save
    from l2o.deploy.export import save as save_pretrained
    from l2o.deploy.hub import from_pretrained, list_pretrained, push_to_hub
    from l2o.deploy.import_published import from_published
    from l2o.deploy.torch_optimizer import LearnedOptimizer
    from l2o.evaluation.curves import learning_curves
    from l2o.optimizees import Classifier, Optimizee, Quadratic
    from l2o.optimizers import LSTM, SGD, Adam, Momentum, RMSprop, UpdateRule

__version__ = "0.1.0"
__all__ = [
    "LSTM",
    "SGD",
    "Adam",
    "Classifier",
    "LearnedOptimizer",
    "Momentum",
    "Optimizee",
    "Quadratic",
    "RMSprop",
    "UpdateRule",
    "from_pretrained",
    "from_published",
    "learning_curves",
    "list_pretrained",
    "load",
    "push_to_hub",
    "save",
    "save_pretrained",
]

_PLACES = {
    "l2o.deploy.export": ("load", "save"),
    "l2o.deploy.import_published": ("from_published",),
    "l2o.deploy.hub": ("from_pretrained", "list_pretrained", "push_to_hub"),
    "l2o.deploy.torch_optimizer": ("LearnedOptimizer",),
    "l2o.evaluation.curves": ("learning_curves",),
    "l2o.optimizees": ("Classifier", "Optimizee", "Quadratic"),
    "l2o.optimizers": ("LSTM", "SGD", "Adam", "Momentum", "RMSprop", "UpdateRule"),
}
"""Where each public name is defined."""

_FOLDERS = ("data", "deploy", "evaluation", "figures", "meta_gradients", "optimizees", "optimizers", "training")

_PLACE_OF = {name: place for place, names in _PLACES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name, or a folder of the package, when it is first asked for (PEP 562)."""
    if name in _FOLDERS:
        return importlib.import_module(f"l2o.{name}")
    if name == "save_pretrained":
        return __getattr__("save")
    if name not in _PLACE_OF:
        raise AttributeError(f"module 'l2o' has no attribute '{name}'")
    value = getattr(importlib.import_module(_PLACE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
