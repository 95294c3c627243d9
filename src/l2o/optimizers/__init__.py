"""What optimizes: update rules m(∇, h, φ), learned and hand-designed alike."""

from l2o.optimizees.layout import Axis
from l2o.optimizers.adafac_mlp import AdafacMLP
from l2o.optimizers.base import Observation, Scope, State, UpdateRule
from l2o.optimizers.celo import Celo
from l2o.optimizers.celo2 import Celo2
from l2o.optimizers.celo_adam import CeloAdam
from l2o.optimizers.gac import GAC
from l2o.optimizers.hand_designed import SGD, Adam, AdamW, HandDesigned, Momentum, RMSprop
from l2o.optimizers.hierarchical import Hierarchical
from l2o.optimizers.lstm import LSTM
from l2o.optimizers.mlp_lopt import MLPLOpt
from l2o.optimizers.muon import Muon
from l2o.optimizers.ntm_bfgs import NTMBFGS
from l2o.optimizers.partitioned import Partitioned
from l2o.optimizers.preprocessing import Identity, LogAndSign, Preprocessing, Scale
from l2o.optimizers.rnnprop import RNNProp
from l2o.optimizers.scaled import Scaled
from l2o.optimizers.schedule_free import ScheduleFreeAdamW
from l2o.optimizers.scheduled import Scheduled
from l2o.optimizers.schedules import ScheduledRule

__all__ = [
    "GAC",
    "LSTM",
    "NTMBFGS",
    "SGD",
    "AdafacMLP",
    "Adam",
    "AdamW",
    "Axis",
    "Celo",
    "Celo2",
    "CeloAdam",
    "HandDesigned",
    "Hierarchical",
    "Identity",
    "LogAndSign",
    "MLPLOpt",
    "Momentum",
    "Muon",
    "Observation",
    "Partitioned",
    "Preprocessing",
    "RMSprop",
    "RNNProp",
    "Scale",
    "Scaled",
    "ScheduleFreeAdamW",
    "Scheduled",
    "ScheduledRule",
    "Scope",
    "State",
    "UpdateRule",
]
