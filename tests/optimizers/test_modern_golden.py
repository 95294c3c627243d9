"""The modern rules against trajectories of the authors' own code: every step of every tensor.

`tests/golden/peers` holds float32 trajectories of learned_optimization's, Celo's and PyLO's code over recorded
gradients, which do not depend on θ. 1e-5 of a tensor's largest change is what float32 allows. Some of that is less than
a last digit of θ, so that the compiled kernel has to round as plain torch does; it does for small tensors.
"""

import modern_rules
import numpy as np
import pytest
import torch
from torch.testing import assert_close

from l2o.deploy.import_modern import modern_rule
from l2o.optimizees import Layout

FILES = ["adafac4", "adafac32", "mlp", "celo", "celo2base", "celo2", "pylo_small_fc"]


@pytest.mark.parametrize("kernel", ["plain torch", "compiled"])
@pytest.mark.parametrize("name", FILES)
def test_every_step_equals_the_authors(monkeypatch, name: str, kernel: str) -> None:
    if kernel == "plain torch":
        monkeypatch.setenv("L2O_KERNEL", "0")
    arrays = modern_rules.golden(name)
    rule = modern_rule(arrays, name)
    assert rule is not None
    layout = Layout({part: arrays[f"p0|{part}"].shape for part in modern_rules.golden_names(arrays)})
    order = list(range(len(arrays["losses"])))
    for t, theta in enumerate(modern_rules.replayed(rule, arrays, [order])):
        for part, value in layout.unravel(theta[0]).items():
            change = np.abs(arrays[f"after|{part}"] - arrays[f"p0|{part}"]).max()
            error = np.abs(value.numpy() - arrays[f"after|{part}"][t]).max()
            assert error <= 1e-5 * change, (part, t, error / change)


@pytest.mark.parametrize("name", FILES)
def test_tasks_that_differ_go_their_own_ways(name: str) -> None:
    """Two tasks at once: the recorded one, and one with the gradients and losses in reverse; each as it is alone."""
    arrays = modern_rules.golden(name)
    rule = modern_rule(arrays, name)
    assert rule is not None
    forward = list(range(len(arrays["losses"])))
    orders = [forward, forward[::-1]]
    size = (modern_rules.flat(arrays, "after", -1) - modern_rules.flat(arrays, "p0")).abs().max().item()
    together = torch.stack(list(modern_rules.replayed(rule, arrays, orders)))
    for b, order in enumerate(orders):
        alone = torch.stack(list(modern_rules.replayed(rule, arrays, [order])))
        assert_close(together[:, b], alone[:, 0], rtol=0, atol=1e-5 * size)
    assert (together[-1, 0] - together[-1, 1]).abs().max() > 0.01 * size
