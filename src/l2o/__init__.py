"""Learned optimizers: train them by gradient descent, then use them like any other."""

from l2o.deploy.export import load, save
from l2o.deploy.export import save as save_pretrained
from l2o.deploy.hub import from_pretrained, list_pretrained, push_to_hub
from l2o.deploy.torch_optimizer import LearnedOptimizer
from l2o.evaluation.evaluation import learning_curves
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
    "learning_curves",
    "list_pretrained",
    "load",
    "push_to_hub",
    "save",
    "save_pretrained",
]
