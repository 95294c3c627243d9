"""What is optimized: distributions of functions f(θ)."""

from l2o.optimizees.base import Batch, Optimizee, Split
from l2o.optimizees.classifier import Classifier
from l2o.optimizees.features import Features
from l2o.optimizees.layout import Layout
from l2o.optimizees.networks import conv_net, mlp
from l2o.optimizees.neural_art import NeuralArt
from l2o.optimizees.quadratic import Quadratic

__all__ = [
    "Batch",
    "Classifier",
    "Features",
    "Layout",
    "NeuralArt",
    "Optimizee",
    "Quadratic",
    "Split",
    "conv_net",
    "mlp",
]
