"""Speed and memory of meta-training, as ratios to plain eager PyTorch in the same process and to the machine's limits.

    python benchmarks/speed.py [--jobs Q M1 M8 M64 C A] [--json FILE] [--quick]

Windows of 20 steps, first order, LSTM 2×20, torch's default number of threads. "rule" is everything but the optimizee's
own minibatch, forward and backward. The reference is left out where its graph would take more than 8 GB.

Shapes: B tasks, P coordinates of one optimizee.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import limits
import torch
from jobs import JOBS, Job, Timed, interleaved, ours, peak_megabytes, reference
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from l2o.optimizers.kernels import lstm_cpp
from l2o.runs.provenance import provenance

GRAPH_BYTES = 8 << 30
BYTES_PER_COORDINATE_AND_STEP = 1400  # about what the eager graph of the LSTM keeps


def run(job: Job, machine: dict[str, float], num_steps: int, windows: int) -> dict[str, Any]:
    """Times per inner step, ratios and peak memory of one job."""
    mine, theirs = (Timed(job.optimizee()) for _ in range(2))
    n = job.num_tasks * mine.layout.size
    both = n * num_steps * BYTES_PER_COORDINATE_AND_STEP < GRAPH_BYTES
    pairs = [(ours, mine), (reference, theirs)] if both else [(ours, mine)]
    made = [make(optimizee, job.p, job.num_tasks, num_steps) for make, optimizee in pairs]
    peaks = [peak_megabytes(window) for window in made]
    times = interleaved(made, [optimizee for _, optimizee in pairs], windows)
    (total, rule), limit = times[0], limits.rule_seconds(machine, n, 1 if job.p is None else 2)
    row = {
        "title": job.title,
        "coordinates": n,
        "ms_per_step": 1e3 * total / num_steps,
        "rule_ms_per_step": 1e3 * rule / num_steps,
        "task_steps_per_s": job.num_tasks * num_steps / total,
        "fraction_of_limit": limit * num_steps / rule,
        "peak_mb": peaks[0],
    }
    if both:
        row |= {
            "reference_ms_per_step": 1e3 * times[1][0] / num_steps,
            "reference_rule_ms_per_step": 1e3 * times[1][1] / num_steps,
            "times_reference": times[1][0] / total,
            "rule_times_reference": times[1][1] / rule,
            "reference_peak_mb": peaks[1],
        }
    return row


def table(rows: dict[str, dict[str, Any]]) -> Table:
    """One line for each job."""
    columns = {
        "ms/step": ("ms_per_step", ".2f"),
        "rule\nms/step": ("rule_ms_per_step", ".2f"),
        "task-\nsteps/s": ("task_steps_per_s", ".0f"),
        "× ref.": ("times_reference", ".2f"),
        "rule\n× ref.": ("rule_times_reference", ".2f"),
        "of the\nlimit": ("fraction_of_limit", ".0%"),
        "peak\nMB": ("peak_mb", ".0f"),
        "ref.\nMB": ("reference_peak_mb", ".0f"),
    }
    shown = Table(box=SIMPLE_HEAD, padding=0)
    for heading in ("", *columns):
        shown.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for name, row in rows.items():
        cells = ((row.get(key), form) for key, form in columns.values())
        shown.add_row(name, *("–" if value is None else format(value, form) for value, form in cells))
    return shown


def main() -> None:
    """Print the table; write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="one window of two steps each, only to see that it works")
    options = parser.parse_args()
    start = time.perf_counter()
    available = lstm_cpp.available()
    compiled = time.perf_counter() - start
    machine = limits.machine()
    num_steps = 2 if options.quick else 20
    console, rows = Console(), {}
    for name in options.jobs:
        job = JOBS[name]
        rows[name] = run(job, machine, num_steps, 1 if options.quick else job.windows)
        console.print(f"{name}: {job.title}: {rows[name]['ms_per_step']:.2f} ms per step", highlight=False)
        report = {"provenance": provenance(), "threads": torch.get_num_threads(), "kernel_s": compiled}
        report |= {"machine": machine, "jobs": rows}
        if options.json:
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(json.dumps(report, indent=2) + "\n")
    console.print(table(rows))
    kernel = f"ready after {compiled:.1f} s, compilation included" if available else "not available"
    numbers = ", ".join(f"{key} {value:.3g}" for key, value in machine.items())
    console.print(f"{torch.get_num_threads()} threads; kernel {kernel}; {numbers}", highlight=False)


if __name__ == "__main__":
    main()
