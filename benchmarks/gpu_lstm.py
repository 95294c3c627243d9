"""The LSTM's Triton kernels on a GPU: exactness, and the speed of meta-training beside plain torch and torch.compile.

Job M: an MNIST-sized MLP 784-20-10 (15 910 coordinates), minibatches of 128, log-and-sign, LSTM 2 x 20, windows of 20
steps, one meta-gradient per window; random images, whose values do not matter for the time. All ways run in one
process, one after another; the median of a window is reported, with torch.cuda.synchronize() around it.

`benchmarks/gpu.py` runs this. By itself:

    python benchmarks/gpu_lstm.py

Shapes: B tasks, P coordinates, K steps.
"""

import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from l2o.data import Dataset
from l2o.meta_gradients.truncated_bptt import TruncatedBPTT, WindowResult
from l2o.native import triton_device
from l2o.optimizees import Classifier, Optimizee, mlp
from l2o.optimizers import LSTM, LogAndSign, UpdateRule
from l2o.optimizers.base import Recording
from l2o.optimizers.kernels import dispatch, lstm_torch, lstm_triton
from l2o.replay import gradients, window_gradient
from l2o.unroll import Episode, start_episode

TASKS, STEPS, WINDOWS, WARM_UP = (1, 8, 64), 20, 10, 3
Way = Callable[[UpdateRule, Optimizee, Episode, int, Generator], WindowResult]


def job_m(device: torch.device) -> Classifier:
    """MNIST's sizes with random images."""
    stream = torch.Generator().manual_seed(0)
    images = lambda count: torch.randint(0, 256, (count, 28, 28), generator=stream, dtype=torch.uint8)  # noqa: E731
    labels = lambda count: torch.randint(0, 10, (count,), generator=stream)  # noqa: E731
    dataset = Dataset(images(60_000), labels(60_000), images(10_000), labels(10_000))
    return Classifier(mlp(784, [20], 10), dataset).to(device)


def eager(
    rule: UpdateRule, optimizee: Optimizee, episode: Episode, num_steps: int, generator: Generator
) -> WindowResult:
    """The plain reference: a graph of the rule, loss + Σ ∇·(θ − θ.detach()) in first order, one backward."""
    theta, state = episode.theta, episode.state
    surrogate, losses = theta.new_zeros(()), []
    with torch.enable_grad():
        for _ in range(num_steps):
            update, state = rule(episode.seen, state, optimizee.layout)
            theta = theta + update
            batch = optimizee.sample_batch(episode.task, len(theta), generator)
            loss, grad = optimizee.loss_and_grad(theta.detach(), batch)
            surrogate = surrogate + (grad * theta).sum() / len(theta)
            episode = episode._replace(theta=theta.detach(), loss=loss, grad=grad, step=episode.step + 1)
            losses.append(loss)
        gradient = gradients(surrogate, list(rule.parameters()))
    after = episode._replace(state={key: value.detach() for key, value in state.items()})
    return WindowResult(torch.stack(losses), surrogate.detach(), gradient, after, done=False)


class Shape(NamedTuple):
    """Say how the window's kernel is compiled: the precision of its products, coordinates of a block, warps, and how
    many programs share a processor."""

    precision: str
    block: int
    warps: int = 8
    programs: int = 1


SHAPES = {
    "Triton": Shape("ieee", 32),
    "Triton tf32x3": Shape("tf32x3", 32),
    "Triton tf32x3, 64": Shape("tf32x3", 64),
    "Triton bf16x3, 64": Shape("bf16x3", 64),
    "Triton bf16x3, 128": Shape("bf16x3", 128),
    "Triton bf16x3, 64, 4 warps": Shape("bf16x3", 64, 4),
}
"""The first is what the package uses. tf32x3 and bf16x3 are three products of tensor cores in the place of each."""


@contextmanager
def compiled_as(shape: Shape) -> Iterator[None]:
    """Compile the Triton kernels otherwise within this block."""
    before = lstm_triton.BLOCK, lstm_triton.OPTIONS, lstm_triton.PROGRAMS_PER_PROCESSOR, triton_device.PRECISION
    new = shape.block, lstm_triton.OPTIONS | {"num_warps": shape.warps}, shape.programs, shape.precision
    try:
        _put(*new)
        yield
    finally:
        _put(*before)


def _put(block: int, options: dict[str, int], programs: int, precision: str) -> None:
    lstm_triton.BLOCK, lstm_triton.OPTIONS = block, options
    lstm_triton.PROGRAMS_PER_PROCESSOR, triton_device.PRECISION = programs, precision
    lstm_triton._programs.cache_clear()


def largest_error(optimizee: Optimizee, device: torch.device) -> float:
    """Of a window's meta-gradient against autograd in float64, relative to each parameter's largest entry."""
    torch.manual_seed(0)
    rule = LSTM(LogAndSign(10), output_scale=0.1).to(device)
    exact = LSTM(LogAndSign(10), output_scale=0.1).to(device, torch.float64)
    exact.load_state_dict(rule.state_dict())
    shape = STEPS, 1, optimizee.layout.size
    grads, cotangents = torch.randn(2, *shape, device=device)
    actual = window_gradient(rule, recording(rule, grads, optimizee), cotangents)
    expected = window_gradient(exact, recording(exact, grads.double(), optimizee), cotangents.double())
    return max(((a - e).abs().max() / e.abs().max()).item() for a, e in zip(actual, expected, strict=True))


def recording(rule: UpdateRule, grads: Tensor, optimizee: Optimizee) -> Recording:
    """A window of gradients (K, B, P) from the start of an episode at θ_0 = 0."""
    theta = torch.zeros_like(grads[0])
    state = rule.init_state(theta, optimizee.layout)
    return Recording(grads, grads.new_zeros(grads.shape[:2]), theta, state, 0, math.inf, optimizee.layout)


def measured(way: Way, rule: UpdateRule, optimizee: Optimizee, num_tasks: int) -> dict[str, float] | str:
    """Task-steps per second, seconds of the first window (compilation) and peak bytes; or why there is none."""
    device = next(rule.parameters()).device
    generator = torch.Generator(device).manual_seed(0)
    torch.cuda.reset_peak_memory_stats()
    seconds = []
    try:
        episode = start_episode(rule, optimizee, num_tasks, generator)
        for _ in range(WARM_UP + WINDOWS):
            torch.cuda.synchronize()
            start = time.perf_counter()
            episode = way(rule, optimizee, episode, STEPS, generator).carry
            torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
    except torch.OutOfMemoryError:
        return "out of memory"
    speed = num_tasks * STEPS / statistics.median(seconds[WARM_UP:])
    return {"task_steps_per_s": speed, "first_s": seconds[0], "peak_bytes": torch.cuda.max_memory_allocated()}


def ways(device: torch.device) -> Iterator[tuple[str, Way, UpdateRule]]:
    """Name, window and rule of everything that is compared; the rule's start moves θ as a trained one would."""
    new = lambda: LSTM(LogAndSign(10), output_scale=0.1).to(device)  # noqa: E731
    yield "plain torch", eager, new()
    for name, shape in SHAPES.items():
        with compiled_as(shape):
            yield name, TruncatedBPTT(max_replay_bytes=2**40), new()
    torch_step = lstm_torch.step
    lstm_torch.step = torch.compile(torch_step)
    yield "torch.compile", eager, new()
    lstm_torch.step = torch_step


def error_of(name: str, device: torch.device) -> float:
    """Give the largest relative error of a window's meta-gradient, with the kernels compiled in one of `SHAPES`."""
    optimizee = job_m(device)
    empty = torch.empty(1, 20, device=device)
    if dispatch.compiled_kernel(empty[:, :2], [empty]) is not lstm_triton:
        raise RuntimeError("the Triton kernels do not run on this GPU")
    with compiled_as(SHAPES[name]):
        return largest_error(optimizee, device)


def report(device: torch.device) -> dict:
    """Print the table; give it."""
    optimizee, found = job_m(device), {}
    print("\njob M: task-steps per second (x plain torch), peak memory")
    for name, way, rule in ways(device):
        try:
            row = {count: measured(way, rule, optimizee, count) for count in TASKS}
        except Exception as error:  # a shape that does not fit into this GPU's shared memory, for example
            found[name] = (str(error).splitlines() or [type(error).__name__])[0]
            print(f"{name:26}   {found[name]}", flush=True)
            continue
        plain = found.setdefault(name, row) and found["plain torch"]
        cells = (_cell(row[count], plain[count] if isinstance(plain, dict) else "", count) for count in TASKS)
        print(f"{name:26}", *cells, sep="   ", flush=True)
    return found


def _cell(result: dict[str, float] | str, plain: dict[str, float] | str, num_tasks: int) -> str:
    if isinstance(result, str):
        return f"B = {num_tasks}: {result}"
    speed, memory = result["task_steps_per_s"], result["peak_bytes"] / 2**30
    ratio = "" if isinstance(plain, str) else f" ({speed / plain['task_steps_per_s']:.1f} x)"
    return f"B = {num_tasks}: {speed:8.0f}{ratio}, {memory:.1f} GiB"


if __name__ == "__main__":
    if not torch.cuda.is_available():
        sys.exit("benchmarks/gpu_lstm.py needs a CUDA GPU and a torch that can use it; there is none here")
    for shape in SHAPES:
        print(f"largest relative error of the meta-gradient, {shape}: {error_of(shape, torch.device('cuda', 0)):.1e}")
    report(torch.device("cuda", 0))
