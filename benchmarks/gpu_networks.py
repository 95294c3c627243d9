"""The Triton kernel of small networks' losses and gradients on a GPU: its error, and its time beside plain torch.

`benchmarks/gpu.py` checks it. By itself:

    python benchmarks/gpu_networks.py

Shapes: B tasks, N examples of a minibatch.
"""

import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from l2o import data
from l2o.optimizees import Classifier, Optimizee, mlp

TASKS, CALLS = 128, 50
NETWORKS = {"64–32–10": [32], "64–32–32–10": [32, 32], "64–64–10": [64]}


def problem(hidden: list[int], device: torch.device) -> tuple[Classifier, Tensor, dict[str, Tensor]]:
    """Give a classifier of digits, θ (B, P), and a minibatch of every task."""
    generator = torch.Generator(device).manual_seed(0)
    optimizee = Classifier(mlp(64, hidden, 10, activation="relu"), data.digits(), 64, init="torch").to(device)
    theta, task = optimizee.sample(TASKS, generator)
    return optimizee, theta, optimizee.sample_batch(task, TASKS, generator)


def error_of(hidden: list[int], device: torch.device) -> float:
    """Give the largest error of a gradient against plain torch in float64, relative to each task's norm.

    Raises RuntimeError where the kernel does not serve this GPU.
    """
    optimizee, theta, batch = problem(hidden, device)
    found = optimizee._compiled(theta, batch)
    if found is None:
        raise RuntimeError("the Triton kernel of linear layers does not run on this GPU")
    exact = {key: value.double() if value.is_floating_point() else value for key, value in batch.items()}
    _, wanted = Optimizee._loss_and_grad(optimizee, theta.double(), exact)
    return ((found[1] - wanted).norm(dim=1) / wanted.norm(dim=1)).max().item()


CHECKS = {name: partial(error_of, hidden) for name, hidden in NETWORKS.items()}


def microseconds(call: Callable[[], object]) -> float:
    """Give the median time of a call."""
    seconds = []
    for _ in range(CALLS):
        torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return 1e6 * statistics.median(seconds[CALLS // 5 :])


def report(device: torch.device) -> dict[str, dict[str, float]]:
    """Print the times; give them."""
    found = {}
    print(f"\nlosses and gradients of {TASKS} tasks, microseconds")
    for name, hidden in NETWORKS.items():
        optimizee, theta, batch = problem(hidden, device)
        ways = {
            "as it is": partial(optimizee.loss_and_grad, theta, batch),
            "plain torch": partial(Optimizee._loss_and_grad, optimizee, theta, batch),
        }
        found[name] = {way: microseconds(call) for way, call in ways.items()}
        print(f"{name:12}", *(f"{way} {spent:7.0f}" for way, spent in found[name].items()), sep="   ", flush=True)
    return found


if __name__ == "__main__":
    if not torch.cuda.is_available():
        sys.exit("benchmarks/gpu_networks.py needs a CUDA GPU and a torch that can use it; there is none here")
    for network, check in CHECKS.items():
        print(f"{network}: largest relative error of a gradient {check(torch.device('cuda', 0)):.1e}")
    report(torch.device("cuda", 0))
