"""Persistent evolution strategies on a GPU: inner steps a second, over four families of small networks.

AdafacMLP and the hierarchical rule learn on ReLU networks of four shapes and scikit-learn's digits, with minibatches
of 64. A window is K = 50 steps of 64 antithetic pairs of each family, one family after another, and a step of every
episode of both signs counts. "In a graph" is the same inner loop, recorded once as a CUDA graph and replayed: it shows
what a window takes where no kernel is launched from Python. The episode's time is recorded with it, as numbers, so that
such a graph is good for timing alone.

`benchmarks/gpu.py` runs this. By itself:

    python benchmarks/gpu_estimators.py

Shapes: N pairs, K steps.
"""

import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Generator

from l2o import data
from l2o.meta_gradients import PersistentES
from l2o.meta_gradients.antithetic import Pairs
from l2o.meta_gradients.perturbation import perturbed
from l2o.optimizees import Classifier, Repeated, mlp
from l2o.optimizers import AdafacMLP, Hierarchical, UpdateRule
from l2o.unroll import unroll

HIDDEN = ([32], [20], [32, 32], [64])
PAIRS, STEPS, HORIZON, WINDOWS, WARM_UP = 64, 50, 1000, 5, 2
RULES: dict[str, Callable[[], UpdateRule]] = {
    "AdafacMLP, h = 4": AdafacMLP,
    "AdafacMLP, h = 32": lambda: AdafacMLP(32),
    "Hierarchical": Hierarchical,
}

Window = Callable[[], object]


def windows(rule: UpdateRule, device: torch.device, generator: Generator) -> list[tuple[Window, Window]]:
    """Give a window of each family, as the estimator does it and as a graph, which its first call records."""
    found = []
    for hidden in HIDDEN:
        optimizee = Classifier(mlp(64, list(hidden), 10, activation="relu"), data.digits(), 64, 0.1).to(device)
        estimator = PersistentES("window", sigma=0.01, cap=None)
        pairs = estimator.start(rule, optimizee, PAIRS, HORIZON, generator)
        found.append((_eager(estimator, rule, optimizee, pairs, generator), _Graph(rule, optimizee, pairs, generator)))
    return found


def _eager(
    estimator: PersistentES, rule: UpdateRule, optimizee: Classifier, pairs: Pairs, generator: Generator
) -> Window:
    return lambda: estimator(rule, optimizee, pairs, STEPS, generator)


class _Graph:
    """The inner loop of a window, recorded and replayed."""

    def __init__(self, rule: UpdateRule, optimizee: Classifier, pairs: Pairs, generator: Generator):
        self.rule, self.optimizee, self.pairs, self.generator = rule, Repeated(optimizee, 2), pairs, generator
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        if self.graph is None:
            self._run()  # compiles what has to be compiled
            torch.cuda.synchronize()
            self.graph = torch.cuda.CUDAGraph()
            self.graph.register_generator_state(self.generator)
            with torch.cuda.graph(self.graph):
                self.losses = self._run()
        self.graph.replay()

    def _run(self) -> torch.Tensor:
        with perturbed(self.rule, self.pairs.noise):
            return unroll(self.rule, self.optimizee, self.pairs.episode, STEPS, self.generator)[0]


def speed(all_families: list[Window]) -> float:
    """Give the inner steps a second of some windows, one of each family."""
    seconds = []
    for _ in range(WARM_UP + WINDOWS):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for window in all_families:
            window()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return 2 * PAIRS * STEPS * len(all_families) / statistics.median(seconds[WARM_UP:])


@torch.no_grad()
def report(device: torch.device) -> dict[str, dict[str, float | str]]:
    """Print inner steps a second; give them, or why there are none."""
    found: dict[str, dict[str, float | str]] = {}
    print(f"\n{PAIRS} pairs of each of {len(HIDDEN)} families, K = {STEPS}: inner steps per second")
    for number, way in enumerate(("as it is", "in a graph")):  # a graph that cannot be recorded comes last
        for name, make in RULES.items():
            row = found.setdefault(name, {})
            try:
                torch.manual_seed(0)
                pairs = windows(make().to(device), device, Generator(device).manual_seed(0))
                row[way] = speed([pair[number] for pair in pairs])
            except Exception as error:  # a graph refuses many things, each with an exception of its own
                row[way] = (str(error).splitlines() or [type(error).__name__])[0]
            shown = f"{row[way]:10.0f}" if isinstance(row[way], float) else row[way]
            print(f"{name:20} {way:12} {shown}", flush=True)
    return found


if __name__ == "__main__":
    if not torch.cuda.is_available():
        sys.exit("benchmarks/gpu_estimators.py needs a CUDA GPU and a torch that can use it; there is none here")
    report(torch.device("cuda", 0))
