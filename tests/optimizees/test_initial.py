"""Where a network's training starts, against the distributions that torch and Haiku draw from.

Shapes: B tasks, P parameters of the network.
"""

import copy
import math

import pytest
import torch
from torch import Generator, nn
from torch.testing import assert_close

from l2o.optimizees import Layout, mlp
from l2o.optimizees.initial import KINDS, check, initial_theta

B = 400


class Everything(nn.Module):
    """One of each kind of module whose start torch defines, and parameters of a module of one's own."""

    def __init__(self):
        super().__init__()
        self.linear, self.narrow = nn.Linear(12, 5), nn.Linear(3, 20)
        self.conv, self.up = nn.Conv2d(4, 6, 3, groups=2), nn.ConvTranspose2d(4, 6, 3)
        self.embedding = nn.Embedding(7, 4, padding_idx=0)
        self.norm, self.group, self.batch = nn.LayerNorm(5), nn.GroupNorm(2, 4), nn.BatchNorm1d(3)
        self.gru, self.cell = nn.GRU(3, 9), nn.LSTMCell(2, 9)
        self.attention, self.slope = nn.MultiheadAttention(8, 2), nn.PReLU()
        self.shift, self.temperature = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.ones(()))


def drawn(network, kind, num_tasks=B, seed=0, **arguments):
    """name -> (B, *shape)"""
    layout = Layout.of_module(network)
    generator = Generator().manual_seed(seed)
    return layout.parameters(initial_theta(network, layout, num_tasks, generator, kind, **arguments))


def built(network, count=B):
    """What torch draws when it builds the network, again and again."""
    networks = [type(network)() for _ in range(count)]
    return {
        name: torch.stack([dict(one.named_parameters())[name].detach() for one in networks])
        for name, _ in network.named_parameters()
    }


def test_torch_s_start_has_the_distribution_of_a_module_that_is_built():
    """Bounds, means and standard deviations of every part; parts that are constant are so to the last bit."""
    network = Everything()
    ours, torchs = drawn(network, "torch"), built(network)
    for name, expected in torchs.items():
        part, n = ours[name], expected.numel()
        assert part.shape == expected.shape
        std = expected.std().item()
        if std == 0:
            assert torch.equal(part, expected), name
            continue
        assert abs(part.std().item() / std - 1) < 6 / math.sqrt(n), name
        assert abs(part.mean().item() - expected.mean().item()) < 6 * std / math.sqrt(n), name
        if "embedding" not in name:  # the others are uniform, and end where torch's end
            assert part.abs().max() <= expected.abs().max() * (1 + 20 / n), name
            assert part.abs().max() >= expected.abs().max() * (1 - 20 / n), name
        assert part.flatten(1).std(0).max() > 0, name


@pytest.mark.parametrize(("name", "bound"), [("linear", 12**-0.5), ("conv", 18**-0.5), ("gru", 1 / 3)])
def test_torch_s_bounds_are_those_of_its_documentation(name, bound):
    """±1/√fan_in for weights and biases, ±1/√h for a GRU."""
    parts = {key: part for key, part in drawn(Everything(), "torch").items() if key.startswith(f"{name}.")}
    assert len(parts) in (2, 4)
    for part in parts.values():
        assert 0.99 * bound < part.abs().max() <= bound
        assert abs(part.std() * math.sqrt(3) / bound - 1) < 0.05


def test_the_embedding_s_padding_stays_zero():
    embedding = drawn(Everything(), "torch")["embedding.weight"]
    assert not embedding[:, 0].any() and abs(embedding[:, 1:].std() - 1) < 0.05


def test_one_task_is_what_the_reset_of_each_module_draws():
    """The same numbers, bit for bit, as torch's own resets from the same seed."""
    network, layout = mlp(6, [4], 3), Layout.of_module(mlp(6, [4], 3))
    theta = initial_theta(network, layout, 2, Generator().manual_seed(3), "torch")
    seed = int(torch.randint(2**62, (), generator=Generator().manual_seed(3)))
    other = copy.deepcopy(network)
    torch.manual_seed(seed)
    for row in theta:
        for module in reversed([*other.modules()]):
            if isinstance(module, nn.Linear):
                module.reset_parameters()
        assert torch.equal(row, nn.utils.parameters_to_vector(other.parameters()))


def test_truncated_normal_is_haiku_s():
    """N(0, 1/fan_in) cut at two standard deviations, whose own standard deviation is .8796 of the nominal one."""
    parts = drawn(Everything(), "truncated_normal")
    for name, fan_in in {"linear": 12, "narrow": 3, "conv": 18}.items():
        weight = parts[f"{name}.weight"]
        assert 0.98 * 2 < weight.abs().max() * math.sqrt(fan_in) <= 2
        assert abs(weight.std() * math.sqrt(fan_in) - 0.8796) < 0.02
        assert abs(weight.mean() * math.sqrt(fan_in)) < 0.03
        assert not parts[f"{name}.bias"].any()
    assert torch.equal(parts["norm.weight"], torch.ones(B, 5)) and not parts["norm.bias"].any()


def test_orthogonal_rows_or_columns_have_length_one():
    parts = drawn(Everything(), "orthogonal")
    for name in ("linear", "narrow", "conv"):
        matrix = parts[f"{name}.weight"].flatten(2)
        short = matrix if matrix.shape[1] <= matrix.shape[2] else matrix.mT
        assert_close(short @ short.mT, torch.eye(short.shape[1]).expand(B, -1, -1), rtol=0, atol=1e-5)
        assert abs(matrix.mean()) < 0.02, "uniform over all of them, signs included"
        assert not parts[f"{name}.bias"].any()


def test_a_range_of_std_is_drawn_for_every_task():
    parts = drawn(mlp(40, [20], 10), "normal", std=[0.01, 0.2])
    theta = torch.cat([part.flatten(1) for part in parts.values()], 1)
    logs = (theta.std(1).log() - math.log(0.01)) / math.log(20)  # uniform in [0, 1]
    assert -0.03 < logs.min() < 0.05 and 0.95 < logs.max() < 1.03
    assert abs(logs.mean() - 0.5) < 0.06 and abs(logs.std() - 12**-0.5) < 0.03


@pytest.mark.parametrize("kind", KINDS)
def test_the_generator_alone_decides(kind):
    """No global generator and no built value decides, tasks differ, and the network is left as it was."""
    network = mlp(6, [4], 3)
    before = copy.deepcopy(network.state_dict())
    state = torch.get_rng_state()
    first = drawn(network, kind, 3, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    torch.manual_seed(9)
    other = mlp(6, [4], 3)
    assert all(torch.equal(first[key], part) for key, part in drawn(other, kind, 3, seed=1).items())
    weights = first["1.weight"]
    assert not torch.equal(weights[0], weights[1])
    assert not torch.equal(weights, drawn(network, kind, 3, seed=2)["1.weight"])


@pytest.mark.parametrize("kind", KINDS)
def test_the_default_dtype_decides(kind, float64):
    torch.set_default_dtype(torch.float32)
    network = mlp(6, [4], 3)
    torch.set_default_dtype(torch.float64)
    assert drawn(network, kind, 2)["1.weight"].dtype == torch.float64


class Positions(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.position = nn.Linear(3, 2), nn.Parameter(torch.randn(4, 2))

    def forward(self, x):
        return self.inner(x) + self.position


class Redrawn(Positions):
    def reset_parameters(self):
        nn.init.normal_(self.position, 5.0, 0.1)


@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_random_parameter_that_nobody_redraws_is_refused(kind):
    network = Positions()
    with pytest.raises(ValueError, match=r"Positions draws its parameter 'position' at random.*init=normal"):
        check(network, Layout.of_module(network), kind, 0.01)
    check(network, Layout.of_module(network), "normal", 0.01)


def test_a_module_s_own_reset_draws_its_parameters():
    position = drawn(Redrawn(), "torch")["position"]
    assert abs(position.mean() - 5) < 0.02 and abs(position.std() - 0.1) < 0.01
    assert not torch.equal(position[0], position[1])
