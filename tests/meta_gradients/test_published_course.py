"""A meta-training by PES is, loss by loss, the one of the published code.

`golden/peers/persistent_es.npz` holds ten meta-updates of google/learned_optimization: `AdafacMLP` (h = 4) on ReLU
networks 64–32–10 and scikit-learn's digits, σ = 0.01, K = 50, eight pairs, minibatches of 64, Adam at 3·10⁻⁴. They are
the first 500 steps of episodes of 2000, so that no episode ends. `benchmarks/published_meta_training.py` wrote the file
and says how. Here the same φ, perturbations, networks and minibatches are given to `PersistentES`.

What the published code counts as the losses of a window are those before its steps; here they are those after them.
The same losses are therefore grouped with a shift by one step.

Shapes: W = 10 windows, K = 50 steps, N = 8 pairs, D = 197 numbers of φ, P parameters of a network.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Generator, Tensor
from torch.nn.utils import vector_to_parameters
from torch.testing import assert_close

from l2o.data import digits
from l2o.meta_gradients import PersistentES
from l2o.optimizees import Classifier, mlp
from l2o.optimizees.base import Batch
from l2o.optimizers import AdafacMLP, UpdateRule

FILE = Path(__file__).parents[1] / "golden" / "peers" / "persistent_es.npz"
SIGMA, RATE, BATCH, HORIZON = 0.01, 3e-4, 64, 2000

LOSSES, DIFFERENCES, ESTIMATES, UPDATES = 2e-6, 2e-4, 3e-4, 3e-3
"""How far results may be from the published ones, relative to them. Found were 2·10⁻⁷ for losses, 2·10⁻⁵ for their
differences, at most 4·10⁻⁵ for estimates, and 2.5·10⁻³ for how far φ has moved. Float32 has seven digits, and the first
two or three digits of the two losses of a pair are equal."""


class Published(NamedTuple):
    """Hold what the published code did."""

    noise: Tensor  # (W, N, D)  ε
    losses: Tensor  # (W, K, 2N)  before every step, of φ + ε and then of φ − ε
    gradients: Tensor  # (W, D)
    phi: Tensor  # (W + 1, D)  before every meta-update, and after the last
    theta: dict[tuple[int, ...], Tensor]  # θ_0 of the N networks: the weights (N, in, out) and biases (N, out) by shape

    @property
    def credit(self) -> Tensor:
        """Give ξ (W, N, D), the sum of all ε of the episode so far."""
        return self.noise.cumsum(0)


class Recorded(Classifier):
    """Draws the networks and the minibatches of the published run, whatever the generator."""

    def __init__(self, published: Published):
        super().__init__(mlp(64, [32], 10, activation="relu"), digits(), batch_size=BATCH)
        self.published, self.random, self.drawn = published, np.random.RandomState(0), []

    def sample(self, num_tasks: int, generator: Generator) -> tuple[Tensor, Batch]:
        parts = {}
        for name, shape in self.layout.shapes.items():
            parts[name] = self.published.theta[shape[::-1]].movedim(1, -1)  # (in, out) -> (out, in)
        return self.layout.of_parameters(parts), {}

    def sample_batch(self, task: Batch, num_tasks: int, generator: Generator) -> Batch:
        if not self.drawn:  # the published code draws those of a window at once
            _, steps, _ = self.published.losses.shape
            index = self.random.randint(len(self.dataset.y_train), size=(steps, num_tasks, BATCH))
            self.drawn = [*torch.from_numpy(index)]
        index = self.drawn.pop(0)
        return {"x": self.dataset.minibatch(self.dataset.x_train, index), "y": self.dataset.y_train[index]}


class Told(PersistentES):
    """Perturbs φ as the published run did."""

    def __init__(self, noise: Tensor):
        super().__init__(sigma=SIGMA, cap=1.5)
        self.noise = [*noise]

    def drawn(self, rule: UpdateRule, num_pairs: int, generator: Generator) -> Tensor:
        return self.noise.pop(0)


@pytest.fixture(scope="module")
def published() -> Published:
    with np.load(FILE) as file:
        arrays = {name: torch.from_numpy(file[name]) for name in file.files}
    theta = {tuple(array.shape[1:]): array for name, array in arrays.items() if name.startswith("theta|")}
    return Published(arrays["noise"], arrays["losses"], arrays["gradients"], arrays["phi"], theta)


@pytest.fixture(scope="module")
def ours(published: Published) -> tuple[Tensor, Tensor]:
    """Give what is computed here at the published φ of every window.

    These are the losses f(θ_0) … f(θ_WK), (WK + 1, 2N), and the meta-gradients (W, D).
    """
    rule, optimizee, estimator, generator = AdafacMLP(4), Recorded(published), Told(published.noise), Generator()
    windows, steps, tasks = published.losses.shape
    vector_to_parameters(published.phi[0], rule.parameters())
    carry = estimator.start(rule, optimizee, tasks // 2, HORIZON, generator)
    losses, gradients = [carry.episode.loss[None]], []
    for phi in published.phi[:windows]:
        vector_to_parameters(phi, rule.parameters())
        found = estimator(rule, optimizee, carry, steps, generator)
        losses.append(found.losses)
        gradients.append(torch.cat([part.flatten() for part in found.gradient]))
        carry = found.carry
    return torch.cat(losses), torch.stack(gradients)


def estimates(losses: Tensor, credit: Tensor) -> Tensor:
    """Give 1/N Σ_i ξ_i (L⁺_i − L⁻_i) / 2σ² (W, D) from the losses (W, K, 2N) and ξ (W, N, D)."""
    plus, minus = losses.mean(1).chunk(2, 1)
    return torch.einsum("wn,wnd->wd", plus - minus, credit) / (2 * SIGMA**2 * credit.shape[1])


def relative(found: Tensor, expected: Tensor) -> Tensor:
    """Give how far each row is from the expected one, relative to that one's norm."""
    return (found - expected).norm(dim=-1) / expected.norm(dim=-1)


def test_every_loss_is_the_published_one(published: Published, ours: tuple[Tensor, Tensor]) -> None:
    """All 500 steps of the 16 episodes agree, and so do the small differences that the estimate is made of."""
    found, expected = ours[0][:-1], published.losses.flatten(0, 1)
    assert_close(found, expected, rtol=LOSSES, atol=0)
    plus, minus = found.chunk(2, 1)
    expected_plus, expected_minus = expected.chunk(2, 1)
    error = (plus - minus) - (expected_plus - expected_minus)
    assert error.norm() < DIFFERENCES * (expected_plus - expected_minus).norm()


def test_the_estimate_is_the_published_one_but_for_where_a_window_begins(
    published: Published, ours: tuple[Tensor, Tensor]
) -> None:
    """The formula gives the published estimates for losses before the steps, and ours for those after them."""
    assert (relative(estimates(published.losses, published.credit), published.gradients) < ESTIMATES).all()
    windows, steps, _ = published.losses.shape
    later = published.losses.flatten(0, 1)[1 : 1 + (windows - 1) * steps].unflatten(0, (windows - 1, steps))
    assert (relative(ours[1][:-1], estimates(later, published.credit[:-1])) < ESTIMATES).all()


def test_the_meta_update_is_the_published_one(published: Published) -> None:
    """Adam moves φ as the published Adam did, from the same gradients.

    The published Adam adds 10⁻⁸ within the square root as well. This shortens a step by about 10⁻⁸ / 2g² of itself, for
    a gradient g: by 3 % for the one of the 197 numbers whose gradient is the smallest, and by far less for the others.
    """
    phi = published.phi[0].clone().requires_grad_()
    adam = torch.optim.Adam([phi], lr=RATE)
    for gradient, expected in zip(published.gradients, published.phi[1:], strict=True):
        phi.grad = gradient
        adam.step()
        moved = phi.detach() - published.phi[0]
        assert relative(moved, expected - published.phi[0]) < UPDATES
