"""How trained rules do on the validation problems of `experiment=general_images`, at three horizons.

What is printed is the mean, over the problems and a few initialisations of each, of log(final loss / first loss), where
the final loss is the mean of the last 5 % of the steps; lower is better. It tells finished rules apart; a training has
the geometric mean over the same problems and horizons as `val/final_loss`.

    python benchmarks/general_validation.py mnist.npz NAME [NAME …]
"""

import argparse
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

import l2o
from l2o import seeds
from l2o.runs.errors import in_one_line
from l2o.unroll import start_episode, unroll

CONF = Path(__file__).parents[1] / "conf"
HORIZONS = {100: 4, 400: 4, 1600: 2}
"""The horizons, and how many initialisations each has."""


@in_one_line
@torch.no_grad()
def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", help="an .npz file of MNIST")
    parser.add_argument("names", nargs="+", help="what l2o.from_pretrained takes")
    given = parser.parse_args()
    with initialize_config_dir(str(CONF), version_base=None):
        images = f"dataset.path={given.images}"
        cfg = compose("train", ["experiment=general_images", images, f"colour_images={given.images}"])
    problems = [*map(instantiate, cfg.learner.validation.values())]
    for name in given.names:
        rule, found = l2o.from_pretrained(name), []
        for steps, tasks in HORIZONS.items():
            logs = []
            for problem in problems:
                generator = seeds.generator(77)
                episode = start_episode(rule, problem, tasks, generator, steps)
                losses, _ = unroll(rule, problem, episode, steps, generator)
                logs.append((losses[-steps // 20 :].mean(0) / episode.loss).log().mean())
            found.append(f"{steps} steps: {torch.stack(logs).mean():.3f}")
        print(f"{name}: {', '.join(found)}", flush=True)


if __name__ == "__main__":
    main()
