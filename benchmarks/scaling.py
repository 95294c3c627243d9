"""How speed and memory scale with tasks, coordinates and the window's length: one figure.

    python benchmarks/scaling.py [--figure docs/figures/scaling.png] [--json FILE] [--quick]

B = 1 … 64 tasks of the MNIST MLP; P = 10³ … 10⁶ coordinates of a separable function, which costs next to nothing;
K = 1 … 100 steps of a window of the MNIST MLP. The reference is drawn where its graph fits into 2 GB. Peaks are those
of a process's first window: what earlier ones leave behind in the allocator would hide or add some megabytes.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import torch
from jobs import Timed, interleaved, mnist, ours, peak_megabytes, reference
from matplotlib.figure import Figure
from speed import BYTES_PER_COORDINATE_AND_STEP, GRAPH_BYTES
from torch import Generator, Tensor

from l2o.figures.lines import label_plainly, legend
from l2o.figures.palette import GRID, readable, series
from l2o.optimizees import Batch, Layout, Optimizee
from l2o.optimizers.kernels import lstm_cpp
from l2o.runs.provenance import provenance

Points = list[dict[str, float]]


class Separable(Optimizee):
    """f(θ) = ½ ‖θ‖², whose gradient is θ."""

    def __init__(self, size: int):
        self.layout = Layout({"theta": (size,)})

    def sample(self, num_tasks: int, generator: Generator) -> tuple[Tensor, Batch]:
        return torch.randn(num_tasks, self.layout.size, generator=generator), {}

    def loss(self, theta: Tensor, batch: Batch) -> Tensor:
        return theta.square().sum() / 2

    def loss_and_grad(self, theta: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        return theta.square().sum(1) / 2, theta.clone()


MAKES = {"l2o": ours, "plain eager": reference}


def problem(size: int | None) -> Optimizee:
    """A separable function of so many coordinates; the MNIST MLP without."""
    return mnist() if size is None else Separable(size)


def peak(name: str, size: int | None, num_tasks: int, num_steps: int) -> float | None:
    """How many megabytes the first window of a fresh process takes; None where the system does not tell."""
    job = json.dumps([name, size, num_tasks, num_steps])
    done = subprocess.run([sys.executable, __file__, "--peak", job], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def point(x: int, size: int | None, num_tasks: int, num_steps: int) -> dict[str, float]:
    """Coordinate-steps per second and peak memory, ours and, where it fits, the reference's."""
    optimizee = problem(size)
    timed, n = Timed(optimizee), num_tasks * optimizee.layout.size
    fits = n * num_steps * BYTES_PER_COORDINATE_AND_STEP < GRAPH_BYTES / 4
    makes = MAKES if fits else {"l2o": ours}
    windows = [make(timed, 10.0, num_tasks, num_steps) for make in makes.values()]
    found: dict[str, float] = {"x": x}
    for name, window in zip(makes, windows, strict=True):
        if (megabytes := peak(name, size, num_tasks, num_steps)) is not None:
            found[f"{name}: peak MB"] = megabytes
        window()
    times = interleaved(windows, [timed] * len(windows), 1 if n * num_steps > 2_000_000 else 5)
    for name, (total, _) in zip(makes, times, strict=True):
        found[f"{name}: task-steps/s"] = num_tasks * num_steps / total
        found[f"{name}: ns per coordinate and step"] = 1e9 * total / (n * num_steps)
    return found


@readable
def draw(scales: dict[str, Points], path: Path) -> None:
    """Time and memory over each of the three sizes."""
    figure = Figure(figsize=(11, 6), layout="constrained")
    rows = {
        "ns per coordinate and step": ("linear", "Time per coordinate\nand step (ns)"),
        "peak MB": ("log", "Peak memory (MB)"),
    }
    axes = figure.subplots(len(rows), len(scales), sharex="col", sharey="row")
    for column, (size, points) in enumerate(scales.items()):
        for axis, (quantity, (scale, label)) in zip(axes[:, column], rows.items(), strict=True):
            for name, colour in series(("l2o", "plain eager")).items():
                pairs = [(p["x"], p[f"{name}: {quantity}"]) for p in points if f"{name}: {quantity}" in p]
                axis.plot(*zip(*pairs, strict=True), "o-", label=name, color=colour) if pairs else None
            axis.set(xscale="log", yscale=scale, ylabel=label if column == 0 else None)
            axis.grid(**GRID)
            label_plainly(axis)
        axes[-1, column].set_xlabel(size)
    axes[0, 0].set_ylim(bottom=0)  # of the whole row, whose lines are all there now
    legend(axes[0, 0])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figure", type=Path, default=Path("docs/figures/scaling.png"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="the smallest two sizes only")
    parser.add_argument("--peak", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        name, size, *job = options.peak
        lstm_cpp.available()
        print(json.dumps(peak_megabytes(MAKES[name](Timed(problem(size)), 10.0, *job))))
        return
    few = slice(2 if options.quick else None)
    scales = {
        "Tasks B (MNIST MLP, K = 20)": [point(b, None, b, 20) for b in (1, 8, 64)[few]],
        "Coordinates P (separable, K = 20)": [point(p, p, 1, 20) for p in (10**3, 10**4, 10**5, 10**6)[few]],
        "Steps of a window K (MNIST MLP, B = 1)": [point(k, None, 1, k) for k in (1, 20, 100)[few]],
    }
    for size, points in scales.items():
        print(size)
        for found in points:
            print("  ", ", ".join(f"{name} {value:.4g}" for name, value in found.items()), flush=True)
    draw(scales, options.figure)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps({"provenance": provenance(), **scales}, indent=2) + "\n")


if __name__ == "__main__":
    main()
