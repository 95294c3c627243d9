"""The optimizees that every test of evaluation is run on."""

import pytest

from l2o.optimizees import Classifier, Quadratic, mlp


@pytest.fixture(params=["quadratic", "classifier"])
def optimizee(request, dataset):
    return Quadratic(3) if request.param == "quadratic" else Classifier(mlp(16, [3], 3), dataset, batch_size=6)
