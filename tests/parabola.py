"""An optimizee whose losses are known without a computer."""

import torch

from l2o.optimizees import Layout, Optimizee


class Parabola(Optimizee):
    """f(x) = x², x_0 = 1: SGD's loss after t steps is (1 − 2 lr)^(2t)."""

    layout = Layout({"x": (1,)})

    def sample(self, num_tasks, generator):
        return torch.ones(num_tasks, 1), {}

    def loss(self, theta, batch):
        return theta.square().sum()
