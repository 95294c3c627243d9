"""What the machine itself can do: arithmetic in the rule's shapes, exponentials, copies.

Shapes: N coordinates, F features, H hidden units.
"""

import time
from collections.abc import Callable
from statistics import median

import torch


def seconds(function: Callable[[], object], repeats: int = 20) -> float:
    """The median time of a call."""
    times = []
    for _ in range(repeats + 3):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return median(times[3:])


def machine(n: int = 15_910, hidden: int = 20) -> dict[str, float]:
    """GFLOP/s of a matrix product (N, 2H) · (2H, 4H) and of a large square one, 1e9 exponentials/s, GB/s copied."""
    x, w, gates = torch.randn(n, 2 * hidden), torch.randn(2 * hidden, 4 * hidden), torch.empty(n, 4 * hidden)
    square, out = torch.randn(1024, 1024), torch.empty(1024, 1024)
    numbers, result = torch.randn(1 << 18), torch.empty(1 << 18)
    source, target = torch.ones(1 << 25), torch.zeros(1 << 25)
    return {
        "rule_gflops": 2e-9 * n * 8 * hidden**2 / seconds(lambda: torch.mm(x, w, out=gates)),
        "peak_gflops": 2e-9 * 1024**3 / seconds(lambda: torch.mm(square, square, out=out)),
        "exp_per_ns": 1e-9 * len(numbers) / seconds(lambda: torch.exp(numbers, out=result)),
        "copy_gb_per_s": 8e-9 * len(source) / seconds(lambda: target.copy_(source), 5),
    }


def rule_seconds(found: dict[str, float], n: int, features: int, hidden: int = 20, layers: int = 2) -> float:
    """The least time of one inner step and its share of the meta-gradient: forward, Wᵀ and outer products at the rate
    of the large matrix product, and the nonlinearities' exponentials, one after the other."""
    forward = 4 * hidden * (features + hidden) + (layers - 1) * 8 * hidden**2
    backward = forward + (2 * layers - 1) * 4 * hidden**2
    arithmetic = 2e-9 * n * (forward + backward) / found["peak_gflops"]
    return arithmetic + 1e-9 * n * layers * 5 * hidden / found["exp_per_ns"]
