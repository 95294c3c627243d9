"""What is optimized: distributions of functions f(θ).

`Features` and `NeuralArt` need torchvision and Pillow, which take longer to import than torch itself. Their modules are
therefore imported when one of the two names is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from l2o.optimizees.augmentation import LossScaled, NoisyGradients, Reparametrised
from l2o.optimizees.autoencoder import Autoencoder
from l2o.optimizees.base import Batch, Optimizee, Split
from l2o.optimizees.classifier import Classifier
from l2o.optimizees.language_model import LanguageModel
from l2o.optimizees.layout import Layout
from l2o.optimizees.least_squares import LeastSquares
from l2o.optimizees.logistic_regression import LogisticRegression
from l2o.optimizees.matrix_factorisation import MatrixFactorisation
from l2o.optimizees.networks import CharGRU, CharTransformer, Mixer, VisionTransformer, conv_net, mlp, res_net
from l2o.optimizees.noisy_quadratic import NoisyQuadratic
from l2o.optimizees.quadratic import Quadratic
from l2o.optimizees.untold import Untold
from l2o.optimizees.views import Repeated, Subset

if TYPE_CHECKING:
    from l2o.optimizees.features import Features
    from l2o.optimizees.neural_art import NeuralArt

__all__ = [
    "Autoencoder",
    "Batch",
    "CharGRU",
    "CharTransformer",
    "Classifier",
    "Features",
    "LanguageModel",
    "Layout",
    "LeastSquares",
    "LogisticRegression",
    "LossScaled",
    "MatrixFactorisation",
    "Mixer",
    "NeuralArt",
    "NoisyGradients",
    "NoisyQuadratic",
    "Optimizee",
    "Quadratic",
    "Reparametrised",
    "Repeated",
    "Split",
    "Subset",
    "Untold",
    "VisionTransformer",
    "conv_net",
    "mlp",
    "res_net",
]

_IMPORTED_WHEN_USED = {"Features": "l2o.optimizees.features", "NeuralArt": "l2o.optimizees.neural_art"}


def __getattr__(name: str) -> Any:
    if name in _IMPORTED_WHEN_USED:
        return getattr(importlib.import_module(_IMPORTED_WHEN_USED[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
