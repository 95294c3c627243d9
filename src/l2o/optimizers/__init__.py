"""What optimizes: update rules m(∇, h, φ), learned and hand-designed alike."""

from l2o.optimizees.layout import Axis
from l2o.optimizers.base import Observation, Scope, State, UpdateRule
from l2o.optimizers.gac import GAC
from l2o.optimizers.hand_designed import SGD, Adam, HandDesigned, Momentum, RMSprop
from l2o.optimizers.lstm import LSTM
from l2o.optimizers.ntm_bfgs import NTMBFGS
from l2o.optimizers.partitioned import Partitioned
from l2o.optimizers.preprocessing import Identity, LogAndSign, Preprocessing, Scale
from l2o.optimizers.rnnprop import RNNProp

__all__ = [
    "GAC",
    "LSTM",
    "NTMBFGS",
    "SGD",
    "Adam",
    "Axis",
    "HandDesigned",
    "Identity",
    "LogAndSign",
    "Momentum",
    "Observation",
    "Partitioned",
    "Preprocessing",
    "RMSprop",
    "RNNProp",
    "Scale",
    "Scope",
    "State",
    "UpdateRule",
]
