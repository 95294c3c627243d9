"""The compiled kernels' arithmetic: what would be subnormal is zero, which is fast, and torch's own stays as it was."""

import platform
import time
from collections.abc import Callable

import pytest
import torch
from modern_rules import LAYOUT, made, seen
from torch import Tensor

from l2o.optimizees import Layout
from l2o.optimizees.kernels import chain
from l2o.optimizers import LSTM, AdafacMLP
from l2o.optimizers.kernels import lstm_cpp

pytestmark = [
    pytest.mark.skipif(not lstm_cpp.available(), reason="no C++ compiler on this machine"),
    pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="only x86 has such a flag"),
]
TINY = torch.finfo(torch.float32).tiny


def subnormal(tensors: list[Tensor]) -> bool:
    return any(bool(((tensor != 0) & (tensor.abs() < TINY)).any()) for tensor in tensors if tensor.is_floating_point())


@torch.no_grad()
def window(size: float, n: int = 64, steps: int = 20) -> Callable[[], list[Tensor]]:
    """The gradient of a window whose adjoints are of a size."""
    torch.manual_seed(0)
    weights = [weight.detach() for weight in LSTM().parameters()]
    features, state = torch.randn(steps, n, 1), [torch.randn(n, 20) for _ in range(4)]
    cotangent = size * torch.randn(steps, n)
    return lambda: lstm_cpp.window_gradient(weights, features, state[:2], state[2:], cotangent)


def test_adjoints_decay_to_zero():
    assert not subnormal(window(1.0)()) and not subnormal(window(1e-36)())
    assert window(1e-36)()[0].any() and not window(1e-43)()[0].any()


def test_small_adjoints_take_no_longer():
    """Where each number is subnormal that can be, a window took fifty times as long. The fastest of several counts."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    seconds = {1.0: [], 1e-38: []}
    for _ in range(7):
        for size, found in seconds.items():
            run = window(size, 512)
            started = time.perf_counter()
            run()
            found.append(time.perf_counter() - started)
    torch.set_num_threads(before)
    assert min(seconds[1e-38]) < 3 * min(seconds[1.0])


@pytest.mark.parametrize("name", ["adafac_mlp", "mlp_lopt", "celo2", "hierarchical"])
@torch.no_grad()
def test_moving_averages_decay_to_zero(name, monkeypatch):
    """Of a coordinate without a gradient, as a pixel that is always black has. In plain torch they become subnormal."""
    rule, theta = made(name), torch.randn(2, LAYOUT.size)
    for kernel in (False, True):
        monkeypatch.setenv("L2O_KERNEL", "1" if kernel else "0")
        state = {
            key: torch.full_like(value, TINY) if value.is_floating_point() else value
            for key, value in rule.init_state(theta, LAYOUT).items()
        }
        _, state = rule(seen(torch.zeros_like(theta), theta), state, LAYOUT)
        assert subnormal([state["momenta"]]) is not kernel


@torch.no_grad()
def test_what_a_step_remembers_does_not_depend_on_the_number_of_threads():
    """Nor what it computes between two passes over a large tensor, as here factors that are remembered for good."""
    rule, layout, before = AdafacMLP(), Layout({"weight": (300, 300)}), torch.get_num_threads()
    rule.factor_offsets.fill_(-20)  # β = 1
    theta, found = torch.randn(1, layout.size), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        state = {
            key: value.fill_(TINY / 4) if value.is_floating_point() else value
            for key, value in rule.init_state(theta, layout).items()
        }
        found.append(rule(seen(torch.zeros_like(theta), theta), state, layout)[1])
    torch.set_num_threads(before)
    for key, value in found[0].items():
        assert torch.equal(value, found[1][key]) and not subnormal([value]), key


def test_small_gradients_of_a_network_are_zero():
    """Those of the first layer have the inputs as factors, those of the second are of an ordinary size."""
    network = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3))
    layout = Layout.of_module(network)
    theta, x, labels = (
        torch.randn(2, layout.size),
        torch.full((2, 8, 5), 1.2 * TINY),
        torch.zeros(2, 8, dtype=torch.int64),
    )
    found = chain.loss_and_grad(chain.chain_of(network, layout), chain.Loss.CROSS_ENTROPY, theta, x, labels)
    assert found is not None
    gradients = layout.unravel(found[1])
    assert not gradients["0.weight"].any() and gradients["0.bias"].all() and not subnormal([found[1]])


@pytest.mark.parametrize("threads", [1, 2])
def test_torch_computes_as_before(threads):
    """On every thread of the pool, after kernels were at work on it."""
    before, small = torch.get_num_threads(), torch.full((1 << 20,), 2 * TINY)
    torch.set_num_threads(threads)
    wanted = small / 4
    window(1.0, 4096)()
    found = small / 4
    torch.set_num_threads(before)
    assert wanted.all() and torch.equal(found, wanted)
