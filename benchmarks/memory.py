"""Peak memory of one window of meta-training, with K = 1 and K = 32 steps: the optimizee's graph must not add up.

Every measurement is a process of its own (its peak resident memory, ru_maxrss). Beside the two peaks stand the peak of
the same process without a window and the rule's own states, K times those of one step, which a window may keep; the
ratio is peak(32) / (peak(1) + states), in all and without what the process takes anyway.

    python benchmarks/memory.py neural_art
    python benchmarks/memory.py cifar10 dataset=npz dataset.path=cifar10.npz
    python benchmarks/memory.py EXPERIMENT [key=value …]
"""

import resource
import subprocess
import sys
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from l2o import seeds
from l2o.unroll import start_episode

STEPS = (0, 1, 32)
LIMIT = 1.5
MEGABYTE = 2**20


def measure(steps: int, experiment: str, *overrides: str) -> None:
    """Print the peak and the bytes of the rule's state of one step, after one window of `steps` (0: none)."""
    torch.set_num_threads(1)
    with initialize_config_dir(str(Path(__file__).parents[1] / "conf"), version_base="1.3"):
        cfg = compose("train", [f"experiment={experiment}", "logger=csv", *overrides])
    rule, optimizee = instantiate(cfg.optimizer, _convert_="all"), instantiate(cfg.optimizee)
    estimator, generator = instantiate(cfg.meta_gradient), seeds.generator(0)
    episode = start_episode(rule, optimizee, cfg.learner.num_tasks, generator)
    if steps:
        estimator(rule, optimizee, episode, steps, generator)
    unit = 1 if sys.platform == "darwin" else 1024
    state = sum(value.numel() * value.element_size() for value in episode.state.values())
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, state)


def main(*arguments: str) -> None:
    """A line for each measurement, then the two ratios."""
    peaks, state = {}, 0
    for steps in STEPS:
        command = [sys.executable, __file__, "--job", str(steps), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks[steps], state = map(int, done.stdout.split()[-2:])
        print(f"K = {steps:2}: peak {peaks[steps] / MEGABYTE:6.0f} MB", flush=True)
    states = STEPS[-1] * state
    idle, one, many = (peaks[steps] for steps in STEPS)
    print(f"states of {STEPS[-1]} steps: {states / MEGABYTE:.0f} MB")
    print(f"ratio {many / (one + states):.2f}, without what the process takes anyway ", end="")
    print(f"{(many - idle) / (one - idle + states):.2f} (limit {LIMIT})")
    if many > LIMIT * (one + states):
        sys.exit("too much")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    if sys.argv[1] == "--job":
        measure(int(sys.argv[2]), *sys.argv[3:])
    else:
        main(*sys.argv[1:])
