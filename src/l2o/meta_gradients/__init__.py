"""Estimators of the meta-gradient dL/dφ over one window of an episode, and the objectives L that they serve."""

from l2o.meta_gradients.base import Carry, MetaGradient, WindowResult
from l2o.meta_gradients.imitation import Imitation
from l2o.meta_gradients.objectives import Last, Log, Mean, Normalised, Objective, Sum
from l2o.meta_gradients.truncated_bptt import TruncatedBPTT

__all__ = [
    "Carry",
    "Imitation",
    "Last",
    "Log",
    "Mean",
    "MetaGradient",
    "Normalised",
    "Objective",
    "Sum",
    "TruncatedBPTT",
    "WindowResult",
]
