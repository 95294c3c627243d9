"""Numbers that others have published."""

import pytest
import torch
from torch import Generator

from l2o.meta_gradients.truncated_bptt import TruncatedBPTT
from l2o.optimizees import Layout, Optimizee
from l2o.optimizers import LSTM, Identity
from l2o.unroll import start_episode


class Square(Optimizee):
    """f(x) = x², x_0 = 1."""

    layout = Layout({"x": (1,)})

    def sample(self, num_tasks, generator):
        return torch.ones(num_tasks, 1), {}

    def loss(self, theta, batch):
        return theta.square().sum()


@pytest.mark.parametrize("num_tasks", [1, 4])
def test_deepmind_s_simple_problem(num_tasks, path):
    """google-deepmind/learning-to-learn, meta_test.py `testResults`: a linear rule that starts as zero, Adam 0.01, two
    windows of five, the rule updated after each; cost and x are those of the second window's end."""
    rule, optimizee, estimator = LSTM(Identity(), num_layers=0, output_scale=1.0), Square(), TruncatedBPTT()
    for parameter in rule.parameters():
        torch.nn.init.zeros_(parameter)
    optimizer = torch.optim.Adam(rule.parameters(), lr=0.01)
    episode = start_episode(rule, optimizee, num_tasks, Generator())
    for _ in range(2):
        losses, _, gradient, episode, *_ = estimator(rule, optimizee, episode, 5, Generator())
        for parameter, grad in zip(rule.parameters(), gradient, strict=True):
            parameter.grad = grad
        optimizer.step()
    assert [round(cost, 7) for cost in losses[-1].tolist()] == [0.7325327] * num_tasks
    assert [round(x, 4) for x in episode.theta[:, 0].tolist()] == [0.8559] * num_tasks
