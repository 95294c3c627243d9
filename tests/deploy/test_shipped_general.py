"""The optimizer `general` on models that it was not trained on, as a stranger would use it: at lr = 1, untuned."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import l2o
from l2o.data import digits

HORIZON = 150


def general(parameters, horizon: int = HORIZON) -> l2o.LearnedOptimizer:
    return l2o.LearnedOptimizer(parameters, l2o.from_pretrained("general"), horizon=horizon)


def final_loss(model: nn.Module, optimizer: torch.optim.Optimizer, tells: bool = False, steps: int = HORIZON) -> float:
    """Train on minibatches of digits, and return the mean of the last tenth of the losses."""
    data = digits()
    images, labels, generator = data.x_train.flatten(1), data.y_train, torch.Generator().manual_seed(0)
    losses = []
    for _ in range(steps):
        rows = torch.randint(len(labels), (64,), generator=generator)
        loss = F.cross_entropy(model(images[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step(**({"loss": loss} if tells else {}))
        losses.append(loss.item())
    return sum(losses[-steps // 10 :]) / len(losses[-steps // 10 :])


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


@pytest.mark.parametrize("tells", [False, True])
def test_it_beats_the_best_constant_rate_of_adam_on_a_common_network(tells):
    own = sum(final_loss(model := network(s), general(model.parameters()), tells) for s in range(3))
    rates = (1e-3, 3e-3, 1e-2, 3e-2)
    adam = min(
        sum(final_loss(model := network(s), torch.optim.Adam(model.parameters(), lr)) for s in range(3)) for lr in rates
    )
    assert own < adam


class Odd(nn.Module):
    """Holds what models have besides matrices: an embedding, a kernel, batch norm, a tied and a frozen weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(17, 12)
        self.kernel, self.norm = nn.Conv1d(12, 12, 3, padding=1), nn.BatchNorm1d(12)
        self.out = nn.Linear(12, 17, bias=False)
        self.out.weight = self.embedding.weight
        self.scale = nn.Parameter(torch.ones(()))
        self.unused, self.frozen = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2), requires_grad=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = self.norm(self.kernel(self.embedding(tokens).mT)).relu().mT
        return self.scale * self.out(hidden)


def test_it_serves_a_model_of_many_kinds_of_parameters_without_names():
    torch.manual_seed(0)
    model = Odd()
    optimizer, generator = (
        general([p for p in model.parameters() if p.requires_grad], 200),
        torch.Generator().manual_seed(1),
    )
    losses = []
    for _ in range(200):
        tokens = torch.randint(17, (16, 20), generator=generator)
        loss = F.cross_entropy(model(tokens).flatten(0, 1), (tokens + 1).remainder(17).flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 2 and losses[-1] < 0.2
    assert torch.equal(model.unused, torch.ones(3)) and torch.equal(model.frozen, torch.ones(2))


@pytest.mark.filterwarnings("ignore:this optimizer was told that the training takes")
def test_it_rests_after_its_horizon():
    model = network()
    optimizer = general(model.parameters(), 30)
    final_loss(model, optimizer, steps=30)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    final_loss(model, optimizer, steps=10)
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
