"""Inner problems in which φ enters additively, θ' = A θ + B φ: there every estimator's expectation is known.

Shapes: B tasks, P coordinates, D meta-parameters, T steps.
"""

import torch
from torch import nn

from l2o.optimizees import Layout, Optimizee
from l2o.optimizers import Scope, UpdateRule


class Additive(UpdateRule):
    """g = (A − 1) θ + B φ, whatever the gradient is, for φ (D,) and for φ (B, D) alike."""

    scope = Scope.ALL
    batched_phi = True

    def __init__(self, a, b, phi):
        super().__init__()
        self.a, self.b, self.phi = a, b, nn.Parameter(torch.tensor(phi))

    def init_state(self, theta, layout):
        return {}

    def state_axes(self):
        return {}

    def forward(self, seen, state, layout):
        return seen.theta @ (self.a - torch.eye(len(self.a))).mT + self.phi @ self.b.mT, state


class Distance(Optimizee):
    """f(θ) = ½ Σ_i w_i (θ_i − y_i)², y ~ N(0, 1) or given, from θ_0 = 1."""

    def __init__(self, weights, target=None):
        self.weights, self.target = weights, target
        self.layout = Layout({"theta": (len(weights),)})

    def sample(self, num_tasks, generator):
        size = len(self.weights)
        target = torch.randn(num_tasks, size, generator=generator, dtype=torch.float64)
        target = target if self.target is None else self.target.expand(num_tasks, size)
        return torch.ones(num_tasks, size), {"y": target.clone()}

    def loss(self, theta, batch):
        return 0.5 * (self.weights * (theta - batch["y"]).square()).sum(-1)

    def losses(self, theta, batch):
        return self.loss(theta, batch)


def small():
    """Three coordinates that turn and shrink, and two meta-parameters that push them."""
    a = torch.tensor([[0.9, 0.3, 0.0], [-0.3, 0.8, 0.2], [0.0, 0.1, 0.7]])
    b = torch.tensor([[0.5, 0.0], [0.0, -0.3], [0.2, 0.4]])
    return Additive(a, b, [0.4, -0.6]), Distance(torch.tensor([1.0, 0.5, 2.0]))


def influence_balancing(phi=0.5, size=23, positive=10):
    """The influence balancing problem (Tallec & Ollivier 2017; Vicol et al. 2021, section 5.1 and appendix).

    θ'_i = ½ θ_i + ½ θ_{i+1} + s_i φ, with s = +1 for the first `positive` coordinates and −1 for the others; the loss
    is ½ (θ_1 − 1)². φ moves θ_1 upwards at first, but downwards in the long run, since most s are −1.
    """
    a = 0.5 * torch.eye(size) + 0.5 * torch.diag(torch.ones(size - 1), 1)
    b = torch.where(torch.arange(size) < positive, 1.0, -1.0)[:, None]
    first = torch.eye(size)[0]
    return Additive(a, b, [phi]), Distance(first, torch.ones(size))


def losses(rule, optimizee, phi, theta, target):
    """f(θ_1) … f(θ_T) (T, B) for φ of every step (T, B, D), by the dynamics written out."""
    found = []
    for own in phi:
        theta = theta @ rule.a.mT + own @ rule.b.mT
        found.append(0.5 * (optimizee.weights * (theta - target).square()).sum(-1))
    return torch.stack(found)
