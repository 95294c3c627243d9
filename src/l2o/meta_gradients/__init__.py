"""Estimators of the meta-gradient dL/dφ over one window of an episode, and the objectives L that they serve."""

from l2o.meta_gradients.base import Carry, MetaGradient, WindowResult
from l2o.meta_gradients.evolution import EvolutionStrategies, FullES
from l2o.meta_gradients.fading_teacher import FadingTeacher
from l2o.meta_gradients.full_bptt import FullBPTT
from l2o.meta_gradients.imitation import Imitation
from l2o.meta_gradients.objectives import Last, Log, Mean, Normalised, Objective, Sum
from l2o.meta_gradients.persistent import PersistentES
from l2o.meta_gradients.truncated_bptt import TruncatedBPTT

__all__ = [
    "Carry",
    "EvolutionStrategies",
    "FadingTeacher",
    "FullBPTT",
    "FullES",
    "Imitation",
    "Last",
    "Log",
    "Mean",
    "MetaGradient",
    "Normalised",
    "Objective",
    "PersistentES",
    "Sum",
    "TruncatedBPTT",
    "WindowResult",
]
