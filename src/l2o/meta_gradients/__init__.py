"""Estimators of the meta-gradient dL/dφ over one window of an episode."""

from l2o.meta_gradients.base import MetaGradient, WindowResult
from l2o.meta_gradients.imitation import Imitation
from l2o.meta_gradients.truncated_bptt import TruncatedBPTT

__all__ = ["Imitation", "MetaGradient", "TruncatedBPTT", "WindowResult"]
