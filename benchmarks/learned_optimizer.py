"""How much a step of `LearnedOptimizer` costs beside the matrix products that the rule cannot do without.

    python benchmarks/learned_optimizer.py [PARAMETERS]

Alternating calls, on one machine, in one run; of each job the median, the least and how it compares with the products
(the median of the rounds' ratios: what disturbs a machine for some seconds disturbs both). The optimizer's model has
linear layers with about a million parameters, its rule is the paper's LSTM (2 × 20, log-and-sign). The products are
torch's, x W_ihᵀ + h W_hhᵀ of both layers and the head, on rows in chunks that stay in the cache (the fastest way that
torch has) and at once.
"""

import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from l2o import LSTM, Adam, LearnedOptimizer
from l2o.optimizers import LogAndSign

ROUNDS = 21


def products(rule: LSTM, size: int, chunk: int) -> Callable[[], None]:
    """The matrix products of one step for `size` coordinates, into buffers that are there."""
    layers = [[weight.detach().T for weight in (cell.weight_ih, cell.weight_hh)] for cell in rule.cells]
    rows = [torch.randn(size, weight.shape[0]) for layer in layers for weight in layer]
    gates, out, head = torch.empty(chunk, 80), torch.empty(chunk, 1), rule.head.weight.detach().T

    def run() -> None:
        for start in range(0, size, chunk):
            part: list[Tensor] = [x[start : start + chunk] for x in rows]
            count = len(part[0])
            for layer, (w_ih, w_hh) in enumerate(layers):
                torch.mm(part[2 * layer], w_ih, out=gates[:count])
                gates[:count].addmm_(part[2 * layer + 1], w_hh)
            torch.mm(part[3], head, out=out[:count])

    return run


def main(size: int = 1_000_000) -> None:
    """Print what the calls took."""
    torch.manual_seed(0)
    width = 1000
    model = nn.Sequential(*(nn.Linear(width, width) for _ in range(max(1, size // (width * (width + 1))))))
    count = sum(parameter.numel() for parameter in model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    rule = LSTM(LogAndSign(10), output_scale=1e-3)
    jobs: dict[str, Callable[[], object]] = {
        "products, chunks of 8192": products(rule, count, 8192),
        "products at once": products(rule, count, count),
        "LearnedOptimizer": LearnedOptimizer(model.parameters(), rule).step,
        "LearnedOptimizer, Adam as the rule": LearnedOptimizer(model.parameters(), Adam(1e-6)).step,
        "torch.optim.Adam": torch.optim.Adam(model.parameters(), 1e-6).step,
    }
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for turn in range(ROUNDS + 1):
        for name, job in jobs.items():
            start = time.perf_counter()
            with torch.no_grad():
                job()
            if turn:  # the first one makes buffers and compiles
                times[name].append(time.perf_counter() - start)
    products_alone = times["products, chunks of 8192"]
    print(f"{count} parameters, {torch.get_num_threads()} threads")
    for name, values in times.items():
        ratio = statistics.median(value / base for value, base in zip(values, products_alone, strict=True))
        print(
            f"{name:36} {1000 * statistics.median(values):8.1f} ms, least {1000 * min(values):7.1f}"
            f"   {ratio:5.2f} × the products, of the least {min(values) / min(products_alone):5.2f}"
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
