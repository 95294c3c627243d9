"""The jobs of the benchmark, each one meta-update per window of K steps, and how a window of each is timed.

Shapes: B tasks, P coordinates of one optimizee, K steps of a window.
"""

import ctypes
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import eager
import torch
from torch import Tensor

from l2o import seeds
from l2o.data import Dataset
from l2o.meta_gradients.truncated_bptt import TruncatedBPTT
from l2o.optimizees import Classifier, NeuralArt, Optimizee, Quadratic, conv_net, mlp
from l2o.optimizers import LSTM, Identity, LogAndSign
from l2o.unroll import start_episode

Window = Callable[[], None]


class Timed(Optimizee):
    """An optimizee that adds up the seconds spent in it: what is left of a window is the rule's."""

    def __init__(self, inner: Optimizee):
        self.inner, self.layout, self.seconds = inner, inner.layout, 0.0

    def sample(self, num_tasks, generator):
        return self.inner.sample(num_tasks, generator)

    def loss(self, theta, batch):
        return self.inner.loss(theta, batch)

    def sample_batch(self, task, num_tasks, generator):
        return self._timed(self.inner.sample_batch, task, num_tasks, generator)

    def loss_and_grad(self, theta, batch):
        return self._timed(self.inner.loss_and_grad, theta, batch)

    def _timed(self, function, *arguments):
        start = time.perf_counter()
        result = function(*arguments)
        self.seconds += time.perf_counter() - start
        return result


class Job(NamedTuple):
    """An optimizee, its preprocessing (log-and-sign with p, or the gradient itself), B tasks, windows to time."""

    title: str
    optimizee: Callable[[], Optimizee]
    p: float | None
    num_tasks: int
    windows: int


def random_images(shape: Sequence[int], count: int = 60_000) -> Dataset:
    """Speed does not depend on what an image shows."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (count, *shape), generator=generator, dtype=torch.uint8)
    y = torch.randint(0, 10, (count,), generator=generator)
    return Dataset(x, y, x[:100], y[:100])


def mnist() -> Optimizee:
    """The paper's MNIST problem, on random images."""
    return Classifier(mlp(784, [20], 10), random_images((28, 28)))


def cifar() -> Optimizee:
    """The paper's ConvNet, on random images."""
    return Classifier(conv_net(), random_images((32, 32, 3), 10_000))


def neural_art() -> Optimizee:
    """Random features: those of trained weights take as long."""
    return NeuralArt(["fire4"], ["conv1_1", "fire2", "fire3", "fire5"])


JOBS = {
    "Q": Job("128 quadratics of 10 coordinates", Quadratic, None, 128, 40),
    "M1": Job("MNIST MLP 784–20–10, batch 128, B = 1", mnist, 10.0, 1, 20),
    "M8": Job("the same, B = 8", mnist, 10.0, 8, 3),
    "M64": Job("the same, B = 64", mnist, 10.0, 64, 2),
    "C": Job("CIFAR ConvNet, batch 128, B = 1", cifar, 10.0, 1, 5),
    "A": Job("neural art 64×64, SqueezeNet, B = 1", neural_art, 10.0, 1, 3),
}


def ours(optimizee: Optimizee, p: float | None, num_tasks: int, num_steps: int) -> Window:
    """The package's window: unroll, meta-gradient, one step of Adam, the losses fetched once."""
    rule = LSTM(Identity() if p is None else LogAndSign(p), output_scale=0.01)
    adam, estimator = torch.optim.Adam(rule.parameters(), 1e-4, fused=True), TruncatedBPTT()
    generator = seeds.generator(0)
    episode = start_episode(rule, optimizee, num_tasks, generator)

    def window() -> None:
        losses, _, gradient, *_ = estimator(rule, optimizee, episode, num_steps, generator)
        for parameter, part in zip(rule.parameters(), gradient, strict=True):
            parameter.grad = part
        adam.step()
        losses.mean().item()

    return window


def reference(optimizee: Optimizee, p: float | None, num_tasks: int, num_steps: int) -> Window:
    """The same window in plain eager PyTorch."""
    rule = eager.Eager(p, output_scale=0.01)
    adam, generator = torch.optim.Adam(rule.parameters(), 1e-4, fused=True), seeds.generator(0)
    theta, task = optimizee.sample(num_tasks, generator)

    def evaluate(theta: Tensor) -> tuple[Tensor, Tensor]:
        return optimizee.loss_and_grad(theta, optimizee.sample_batch(task, num_tasks, generator))

    _, grad = evaluate(theta)

    def window() -> None:
        losses, *_ = eager.window(rule, evaluate, theta, grad, rule.start(theta), num_steps)
        adam.step()
        losses.mean().item()

    return window


def interleaved(windows: Sequence[Window], optimizees: Sequence[Timed], repeats: int) -> list[tuple[float, float]]:
    """(seconds of a window, seconds of it outside the optimizee), medians; the windows take turns, so that what else
    happens on the machine hits all alike. Their first run, for the memory, has warmed them up."""
    times: list[list[tuple[float, float]]] = [[] for _ in windows]
    for _ in range(repeats):
        for window, optimizee, found in zip(windows, optimizees, times, strict=True):
            optimizee.seconds, start = 0.0, time.perf_counter()
            window()
            total = time.perf_counter() - start
            found.append((total, total - optimizee.seconds))
    return [(median(total for total, _ in found), median(rule for _, rule in found)) for found in times]


def peak_megabytes(window: Window) -> float | None:
    """How far one window raises the process's resident memory at its peak; None where the system does not tell."""
    try:
        ctypes.CDLL(None).malloc_trim(0)  # what earlier windows have left would hide what this one needs
        Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark back
        before = _status("VmRSS")
    except (OSError, AttributeError):
        before = None
    window()
    return None if before is None else (_status("VmHWM") - before) / 1024


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))
