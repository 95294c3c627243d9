"""A step of the modern rules on a GPU: its error, and its time beside plain torch and the fused Adam.

`benchmarks/gpu.py` runs this, too. By itself:

    python benchmarks/gpu_rules.py

Parameters are those of linear layers without data, eight tensors. Each step is measured between two calls of
torch.cuda.synchronize(), and the median is reported. Nothing here has run on a GPU yet.
"""

import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from l2o import LearnedOptimizer, from_pretrained
from l2o.optimizees import Layout
from l2o.optimizers import AdafacMLP, Celo, Celo2, MLPLOpt, Observation, UpdateRule

SIZES, STEPS, WARM_UP = (10**6, 10**8), 20, 3
LAYOUT = Layout({"weight": (300, 200), "bias": (300,), "kernel": (3, 3, 20, 30), "embed": (1000, 16)})
RULES: dict[str, Callable[[], UpdateRule]] = {
    "AdafacMLP, h = 4": AdafacMLP,
    "AdafacMLP, h = 32": lambda: AdafacMLP(32, learned_decays=False, step_mult=1e-2),
    "MLPLOpt, h = 32": MLPLOpt,
    "Celo, phase 1": lambda: Celo(1),
    "Celo2-base": lambda: Celo2(orthogonal=False, adam_vectors=False, adam_pattern=None),
    "Celo2, with Newton-Schulz": Celo2,
    "general": lambda: from_pretrained("general"),
}


@contextmanager
def kernels(wanted: bool) -> Iterator[None]:
    """Let Triton kernels serve, or plain torch alone."""
    before = os.environ.get("L2O_KERNEL")
    os.environ["L2O_KERNEL"] = "1" if wanted else "0"
    try:
        yield
    finally:
        if before is None:
            del os.environ["L2O_KERNEL"]
        else:
            os.environ["L2O_KERNEL"] = before


@torch.no_grad()
def largest_error(make: Callable[[], UpdateRule], device: torch.device) -> float:
    """Of the third update in float32 against plain torch in float64, relative to the largest entry of each tensor."""
    torch.manual_seed(0)
    rule, exact = make().to(device), make().to(device, torch.float64)
    exact.load_state_dict(rule.state_dict())
    theta, *grads = torch.randn(4, 2, LAYOUT.size, device=device)
    found = third_update(rule, theta, grads)
    with kernels(False):
        wanted = third_update(exact, theta.double(), [grad.double() for grad in grads])
    pairs = zip(LAYOUT.unravel(found).values(), LAYOUT.unravel(wanted).values(), strict=True)
    return max(((a - e).abs().max() / e.abs().max()).item() for a, e in pairs)


def third_update(rule: UpdateRule, theta: torch.Tensor, grads: list[torch.Tensor]) -> torch.Tensor:
    """The last update after three gradients (B, P) at the same θ."""
    state, full, update = rule.init_state(theta, LAYOUT), theta.new_ones(len(theta)), theta
    for t, grad in enumerate(grads):
        update, state = rule(Observation(grad, theta, full, t * full, 10 * full), state, LAYOUT)
    return update


def parameters(size: int, device: torch.device) -> list[nn.Parameter]:
    """About so many parameters in four square weights and four biases, with gradients."""
    width = math.isqrt(size // 4)
    own = [nn.Parameter(torch.randn(shape, device=device)) for shape in 4 * [(width, width), (width,)]]
    for parameter in own:
        parameter.grad = 0.01 * torch.randn_like(parameter)
    return own


def measured(make: Callable[[], torch.optim.Optimizer]) -> dict[str, float] | str:
    """Milliseconds of a step, seconds of the first one (compilation) and peak bytes; or why there is none."""
    torch.cuda.reset_peak_memory_stats()
    seconds = []
    try:
        optimizer = make()
        for _ in range(WARM_UP + STEPS):
            torch.cuda.synchronize()
            start = time.perf_counter()
            optimizer.step()
            torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
    except torch.OutOfMemoryError:
        return "out of memory"
    step = 1e3 * statistics.median(seconds[WARM_UP:])
    return {"step_ms": step, "first_s": seconds[0], "peak_bytes": torch.cuda.max_memory_allocated()}


def report(device: torch.device) -> dict:
    """Print the times; give them."""
    found: dict = {}
    for size in SIZES:
        rows = found[size] = {}
        rows["fused Adam"] = adam = measured(lambda: torch.optim.Adam(parameters(size, device), 1e-5, fused=True))  # noqa: B023
        print(f"\n{size} parameters\n{'fused Adam':40} {_cell(adam, adam)}", flush=True)
        for name, make in RULES.items():
            for way, wanted in (("kernel", True), ("plain torch", False)):
                with kernels(wanted):
                    own = measured(lambda: LearnedOptimizer(parameters(size, device), make().to(device), horizon=1000))  # noqa: B023
                rows[f"{name}, {way}"] = own
                print(f"{name + ', ' + way:40} {_cell(own, adam)}", flush=True)
    return found


def _cell(result: dict[str, float] | str, adam: dict[str, float] | str) -> str:
    if isinstance(result, str):
        return result
    ratio = "" if isinstance(adam, str) else f" ({result['step_ms'] / adam['step_ms']:.1f} × Adam)"
    return (
        f"{result['step_ms']:8.3f} ms{ratio}, first {result['first_s']:.1f} s, {result['peak_bytes'] / 2**30:.2f} GiB"
    )


if __name__ == "__main__":
    if not torch.cuda.is_available():
        sys.exit("benchmarks/gpu_rules.py needs a CUDA GPU and a torch that can use it; there is none here")
    for rule, new in RULES.items():
        print(f"{rule:26} largest relative error of an update {largest_error(new, torch.device('cuda', 0)):.1e}")
    report(torch.device("cuda", 0))
