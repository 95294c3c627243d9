"""How much a step of the modern rules costs beside one of `torch.optim.Adam`, and what they remember of a parameter.

    python benchmarks/modern_rules.py [--rounds N] [--threads N]

The steps of `LearnedOptimizer` are for 0.9 million parameters in 8 tensors, of four linear layers. Alternating calls,
on one machine, in one run; of each job the median, the least, and the median of the rounds' ratios to Adam (foreach):
what disturbs a machine for some seconds disturbs both. `--processor-time` counts this thread's own processor time
instead, with one thread, for machines that are busy with other work. The limit is the network's multiply-adds at the
rate of a large matrix product; the kernel does less than all of them, because what a row, a column or a step has in
common is multiplied once, and may go beyond it. Then the rule's share of an inner step of evolution strategies: 16
particles with a φ each, on an MLP 64–32–10.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from l2o import LearnedOptimizer
from l2o.optimizees import Layout
from l2o.optimizers import AdafacMLP, Celo, Celo2, MLPLOpt, Observation, UpdateRule
from l2o.optimizers.kernels.dispatch import donated_state

Jobs = dict[str, Callable[[], object]]

SIZE = 1024
"""Of the square matrices whose product says what the machine can do."""

PARTICLES = 16
LAYOUT = Layout({"weight_0": (32, 64), "bias_0": (32,), "weight_1": (10, 32), "bias_1": (10,)})
RULES: dict[str, Callable[[], UpdateRule]] = {
    "AdafacMLP, h = 4": AdafacMLP,
    "AdafacMLP, h = 32": lambda: AdafacMLP(32, learned_decays=False, step_mult=1e-2),
    "MLPLOpt, h = 32": MLPLOpt,
    "Celo, phase 1": lambda: Celo(1),
    "Celo2-base": lambda: Celo2(orthogonal=False, adam_vectors=False, adam_pattern=None),
    "Celo2, with Newton-Schulz": Celo2,
}


def network() -> nn.Module:
    """0.9 million parameters in 8 tensors, with gradients."""
    layers = nn.Sequential(nn.Linear(784, 512), nn.Linear(512, 512), nn.Linear(512, 400), nn.Linear(400, 80))
    for parameter in layers.parameters():
        parameter.grad = 0.01 * torch.randn_like(parameter)
    return layers


def bytes_per_parameter(optimizer: torch.optim.Optimizer) -> float:
    """What the optimizer's state holds, and its buffer for gradients, in bytes for each parameter."""
    count = sum(p.numel() for group in optimizer.param_groups for p in group["params"])
    own = [value for entry in optimizer.state.values() for value in entry.values() if isinstance(value, torch.Tensor)]
    return sum(value.numel() * value.element_size() for value in own) / count + 4


def multiply_adds(rule: UpdateRule) -> int:
    """Of the network, for one coordinate."""
    return sum(p.numel() for name, p in rule.named_parameters() if "weight" in name)


def interleaved(
    jobs: dict[str, Callable[[], object]], rounds: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Seconds of every job in every round, after a first one that makes buffers and compiles."""
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for turn in range(rounds + 3):
        for name, job in jobs.items():
            start = clock()
            job()
            if turn > 2:
                times[name].append(clock() - start)
    return times


def particles(rule: UpdateRule) -> Callable[[], object]:
    """A step of the rule for all particles, each with a φ of its own."""
    for name, parameter in [*rule.named_parameters()]:
        owner, _, last = name.rpartition(".")
        module = rule.get_submodule(owner)
        delattr(module, last)
        setattr(module, last, parameter.detach() + 0.01 * torch.randn(PARTICLES, *parameter.shape))
    theta, full = torch.randn(PARTICLES, LAYOUT.size), torch.full((PARTICLES,), 5.0)
    seen = Observation(0.01 * torch.randn_like(theta), theta, full, full, 10 * full)
    state = rule.init_state(theta, LAYOUT)

    def run() -> None:
        nonlocal state
        with donated_state():
            _, state = rule(seen, state, LAYOUT)

    return run


@torch.no_grad()
def main(rounds: int, threads: int, processor_time: bool) -> None:
    """Print what the steps took."""
    torch.manual_seed(0)
    torch.set_num_threads(1 if processor_time else threads)
    clock = time.thread_time if processor_time else time.perf_counter
    adam = torch.optim.Adam(network().parameters(), 1e-5, foreach=True)
    rules = {name: make() for name, make in RULES.items()}
    optimizers = {name: LearnedOptimizer(network().parameters(), rule) for name, rule in rules.items()}
    square, out = torch.randn(SIZE, SIZE), torch.empty(SIZE, SIZE)
    jobs: Jobs = {"torch.optim.Adam": adam.step}
    jobs["matrix product"] = lambda: torch.mm(square, square, out=out)
    jobs |= {name: own.step for name, own in optimizers.items()}
    times = interleaved(jobs, rounds, clock)
    count, base = sum(p.numel() for p in network().parameters()), times["torch.optim.Adam"]
    rate = 2 * SIZE**3 / min(times["matrix product"])
    print(f"{count} parameters in 8 tensors, {torch.get_num_threads()} threads, {rate / 1e9:.0f} GFLOP/s")
    for name, values in times.items():
        ratio = statistics.median(value / other for value, other in zip(values, base, strict=True))
        line = f"{name:26} {1e3 * statistics.median(values):8.2f} ms, least {1e3 * min(values):7.2f}"
        line += f"   {ratio:6.2f} × Adam, of the least {min(values) / min(base):6.2f}"
        if name in rules:
            share = 2 * count * multiply_adds(rules[name]) / rate / min(values)
            line += f"   {bytes_per_parameter(optimizers[name]):5.1f} bytes   {share:4.0%} of the limit"
        print(line)
    steps = {f"{PARTICLES} particles, {name}": particles(RULES[name]()) for name in [*RULES][:2]}
    for name, values in interleaved(steps, 10 * rounds, clock).items():
        middle, least = statistics.median(values), min(values)
        print(f"{name:36} {1e6 * middle:8.0f} µs, least {1e6 * least:6.0f}   {PARTICLES / least:8.0f} rule steps/s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--processor-time", action="store_true", help="of one thread, on a machine with other work")
    given = parser.parse_args()
    main(given.rounds, given.threads, given.processor_time)
