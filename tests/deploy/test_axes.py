"""A kernel looks the same to a rule in training and in use, whichever way its axes lie."""

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.testing import assert_close

from l2o import LearnedOptimizer
from l2o.data import Dataset
from l2o.optimizees import Classifier
from l2o.optimizees.layout import Layout
from l2o.optimizers import LSTM, AdafacMLP, Celo, Celo2, LogAndSign, MLPLOpt, Partitioned
from l2o.unroll import start_episode, step

CONV_FC = {"conv": r"[13]\.weight", "fc": r"5\.weight|.*bias"}

RULES = {
    "lstm": lambda: LSTM(LogAndSign(10), hidden_size=3, output_scale=0.1),
    "adafac": lambda: AdafacMLP(step_mult=0.1),
    "fan-in": lambda: AdafacMLP(step_mult=0.1, step_scale="fan_in"),
    "lopt": lambda: MLPLOpt(6, step_mult=0.1),
    "celo": lambda: Celo(2, scheduler_size=5, step_mult=0.1),
    "celo2": lambda: Celo2(step_mult=0.1),
    "celo2 base": lambda: Celo2(step_mult=0.1, orthogonal=False, adam_vectors=False, adam_pattern=None),
    "partitioned": lambda: Partitioned({"conv": Celo2(step_mult=0.1), "fc": AdafacMLP(step_mult=0.1)}, CONV_FC),
}


class Pictures(nn.Module):
    """(N, 4, 6) -> (N, 1, 4, 6)."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, None]


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 3, (3, 2)), nn.ReLU(), nn.Conv2d(3, 2, (1, 3)), nn.Flatten(), nn.Linear(12, 3)
    return nn.Sequential(Pictures(), *layers).double()


def classifier() -> Classifier:
    generator = Generator().manual_seed(5)
    x, y = torch.rand(12, 4, 6, generator=generator).double(), torch.arange(12) % 3
    return Classifier(network(), Dataset(x, y, x, y), batch_size=4, init_std=0.3)


@pytest.fixture
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", RULES)
def test_a_rule_moves_a_conv_net_in_use_as_in_training(name, float64):
    torch.manual_seed(1)
    rule = RULES[name]().double()
    for parameter in rule.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    problem, generator = classifier(), Generator().manual_seed(2)
    episode = start_episode(rule, problem, 1, generator, 9.0)
    own = problem.layout.parameters(episode.theta[0])
    params = {part: nn.Parameter(value.clone().contiguous()) for part, value in own.items()}
    optimizer = LearnedOptimizer(params.items(), rule, horizon=9, resting=False)  # training lets nothing rest
    for _ in range(4):
        grads = problem.layout.parameters(episode.grad[0])
        for part, param in params.items():
            param.grad = grads[part].clone()
        optimizer.step(loss=episode.loss[0])
        with torch.no_grad():
            _, episode = step(rule, problem, episode, generator)
        for part, value in problem.layout.parameters(episode.theta[0]).items():
            assert_close(params[part].detach(), value, rtol=1e-9, atol=1e-11)


def test_episodes_of_a_conv_net_start_as_they_did_before_kernels_were_turned(float64):
    problem = classifier()
    theta, _ = problem.sample(2, Generator().manual_seed(3))
    drawn = 0.3 * torch.randn(2, problem.layout.size, generator=Generator().manual_seed(3))
    own = {name: tuple(parameter.shape) for name, parameter in problem.network.named_parameters()}
    for name, part in Layout(own).unravel(drawn).items():
        assert torch.equal(problem.layout.parameters(theta)[name], part)


SHAPES = {"first": (4, 6), "conv": (8, 3, 5, 2), "conv1d": (7, 2, 3), "dense": (9, 4), "last": (2, 9)}
FAN_IN = {"first": 1, "conv": 30, "conv1d": 6, "dense": 4, "last": 1}


def moved(rule, shapes, axes):
    params = {name: nn.Parameter(torch.zeros(shape)) for name, shape in shapes.items()}
    optimizer = LearnedOptimizer(params.items(), rule, axes=axes)
    for name, param in params.items():
        param.grad = torch.full_like(param, 1.0 + len(name))
    optimizer.step()
    return {name: param.detach() for name, param in params.items()}


@pytest.mark.parametrize("unscaled", [None, "first|last"])
@pytest.mark.parametrize(
    ("axes", "out_axis", "shapes"),
    [
        ("torch", 0, SHAPES),
        ("as_given", 0, SHAPES),  # PyLO's files
        ("as_given", -1, {name: (*shape[2:], shape[1], shape[0]) for name, shape in SHAPES.items()}),  # JAX's files
    ],
)
def test_the_step_of_a_hidden_weight_is_divided_by_its_fan_in_whichever_way_it_is_turned(
    axes, out_axis, shapes, unscaled
):
    found = []
    for scale in (None, "fan_in"):
        torch.manual_seed(0)
        rule = AdafacMLP(learned_decays=False, step_scale=scale, out_axis=out_axis, unscaled=unscaled)
        found.append(moved(rule, shapes, axes))
    plain, scaled = found
    for name, fan_in in FAN_IN.items():
        assert plain[name].abs().min() > 0
        assert_close(scaled[name] * fan_in, plain[name], rtol=1e-5, atol=0)


def test_celo2_normalises_a_kernel_over_inputs_and_outputs():
    """In use and in training, for every place of the kernel: not over its height and width."""
    torch.manual_seed(0)
    param = nn.Parameter(torch.randn(6, 5, 3, 3))
    before, param.grad = param.detach().clone(), torch.randn(6, 5, 3, 3)
    LearnedOptimizer([("w", param)], Celo2(step_mult=1.0)).step()
    size = (param.detach() - before).square().mean((0, 1)).sqrt()
    assert_close(size, torch.ones(3, 3), rtol=1e-3, atol=0)
