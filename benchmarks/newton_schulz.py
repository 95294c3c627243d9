"""How long Newton-Schulz's iteration takes with the compiled kernel and without it, and how exact the Gram matrix is.

    python benchmarks/newton_schulz.py [--threads N] [--iterations N]

Each time is the lower quartile of 60 calls of `orthogonalised` on one matrix. The errors are those of a 128×784 matrix
with singular values from 1 to 1e-8 in float32, relative to float64, in the Frobenius norm.
"""

import argparse
import time

import torch
from torch import Tensor

from l2o.optimizees import Layout
from l2o.optimizers import newton_schulz
from l2o.optimizers.kernels import newton_schulz_cpp

SHAPES = [(10, 30), (40, 20), (64, 64), (64, 256), (128, 128), (128, 784), (256, 256), (256, 1024), (512, 512)]


def microseconds(update: Tensor, layout: Layout, iterations: int, largest_work: int) -> float:
    """Time a call in which the kernel takes matrices of up to so many multiply-adds."""
    newton_schulz_cpp.LARGEST_WORK = largest_work
    newton_schulz._matrices.cache_clear()
    times = []
    for _ in range(65):
        began = time.perf_counter()
        newton_schulz.orthogonalised(update, layout, None, iterations)
        times.append(time.perf_counter() - began)
    return 1e6 * sorted(times[5:])[15]


def through_gram(x: Tensor, iterations: int) -> Tensor:
    """Do the iterations on a matrix as the kernel does them on long ones."""
    a, b, c = newton_schulz.COEFFICIENTS
    gram, product = x @ x.mT, torch.eye(len(x), dtype=x.dtype)
    for _ in range(iterations):
        factor = a * torch.eye(len(x), dtype=x.dtype) + b * gram + c * gram @ gram
        product, gram = factor @ product, factor @ gram @ factor
    return product @ x


def main() -> None:
    """Print a table of times, and the errors after three and after five iterations."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--iterations", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    print("| matrix | kernel, µs | torch, µs |\n|---|---|---|")
    for rows, columns in SHAPES:
        layout = Layout({"matrix": (rows, columns)})
        update = torch.randn(1, layout.size)
        own, other = (microseconds(update, layout, arguments.iterations, work) for work in (2**60, -1))
        print(f"| {rows}×{columns} | {own:.0f} | {other:.0f} |", flush=True)
    left, _, right = torch.linalg.svd(torch.randn(128, 784, dtype=torch.float64), full_matrices=False)
    x = left * torch.logspace(0, -8, 128, dtype=torch.float64) @ right
    x = x / x.norm()
    for iterations in (3, 5):
        exact = newton_schulz._iterated(x, iterations)
        found = newton_schulz._iterated(x.float(), iterations), through_gram(x.float(), iterations)
        errors = [((one.double() - exact).norm() / exact.norm()).item() for one in found]
        print(f"{iterations} iterations: error {errors[0]:.1e}, through the Gram matrix {errors[1]:.1e}")


if __name__ == "__main__":
    main()
