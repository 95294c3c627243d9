"""How good an optimizer is: learning curves on fresh problems, tuned baselines, comparisons."""

from l2o.evaluation.comparison import Comparison
from l2o.evaluation.curves import learning_curves
from l2o.evaluation.evaluation import Evaluation
from l2o.evaluation.tuning import tune

__all__ = ["Comparison", "Evaluation", "learning_curves", "tune"]
