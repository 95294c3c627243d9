"""Many windows of meta-training: both ways through the LSTM train alike, and nothing grows.

Shapes: B tasks, K steps of a window.
"""

import gc
from pathlib import Path

import pytest
import torch
from torch import Tensor

from l2o import seeds
from l2o.meta_gradients.truncated_bptt import TruncatedBPTT
from l2o.optimizees import Quadratic
from l2o.optimizers import LSTM, LogAndSign
from l2o.optimizers.kernels import lstm_cpp
from l2o.unroll import start_episode

STATM = Path("/proc/self/statm")
PAGE = 4096


def train(num_windows: int, windows_per_episode: int = 5, num_steps: int = 8) -> Tensor:
    """Meta-training from a fixed start: the mean loss of every step (windows · K)."""
    torch.manual_seed(0)
    rule, optimizee = LSTM(LogAndSign(10), hidden_size=6, output_scale=0.1), Quadratic(5)
    adam, estimator, generator = torch.optim.Adam(rule.parameters(), 1e-2), TruncatedBPTT(), seeds.generator(0)
    curve, episode = [], None
    for index in range(num_windows):
        if episode is None or index % windows_per_episode == 0:
            episode = start_episode(rule, optimizee, 4, generator)
        losses, _, gradient, episode, *_ = estimator(rule, optimizee, episode, num_steps, generator)
        for parameter, part in zip(rule.parameters(), gradient, strict=True):
            parameter.grad = part
        adam.step()
        curve.append(losses.mean(1))
    return torch.cat(curve)


def both_paths(monkeypatch: pytest.MonkeyPatch) -> tuple[Tensor, Tensor]:
    monkeypatch.delenv("L2O_KERNEL", raising=False)
    if not lstm_cpp.available():
        pytest.skip("no C++ compiler on this machine")
    compiled = train(50)
    monkeypatch.setenv("L2O_KERNEL", "0")
    return compiled, train(50)


def test_kernel_and_torch_train_alike(float64, monkeypatch):
    compiled, plain = both_paths(monkeypatch)
    assert compiled.view(50, -1)[-5:].mean() < 0.8 * compiled.view(50, -1)[:5].mean()  # it has learned something
    torch.testing.assert_close(compiled, plain, rtol=1e-8, atol=0)


def test_kernel_and_torch_train_alike_in_float32(monkeypatch):
    """Rounding errors grow from window to window, and stay far below what training changes."""
    torch.testing.assert_close(*both_paths(monkeypatch), rtol=1e-2, atol=0)


@pytest.mark.skipif(not STATM.exists(), reason="the system does not tell a process's memory")
def test_nothing_grows_over_episodes(path):
    """No objects after a few episodes, and no memory to speak of: far less than one tensor of a window for each."""

    def size() -> tuple[int, int]:
        gc.collect()
        tensors = sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())
        return tensors, PAGE * int(STATM.read_text().split()[1])

    train(50, 1, num_steps=2)
    tensors, before = size()
    train(200, 1, num_steps=2)
    after, resident = size()
    assert after <= tensors
    assert resident - before < 200 * 2**14
