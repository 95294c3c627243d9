"""Train the optimizer `general` as it was trained, in three stages; docs/notebook/general.md says what each is for.

Every stage is a run of train.py in a folder of its own under the given one. A stage that is finished is left as it is,
and one that was broken off goes on. Each stage starts from the φ of the one before that validated best.

    python benchmarks/train_general.py mnist.npz cifar10.npz outputs/general --seed 1
"""

import argparse
import subprocess
import sys
from pathlib import Path

from hydra.core.override_parser.types import Quote, QuotedString

from l2o.runs.errors import in_one_line

ROOT = Path(__file__).parents[1]
FAMILIES = ("mlp_images", "mlp_colours", "autoencoder", "logistic", "quadratics", "char_gru")
FAMILY = "learner.families.{}".format

FIRST = [  # all problems count alike, and nothing is clipped: a start for problems of all scales, with Adam's direction
    *("optimizer=hierarchical", "optimizer.step_mult=0.02", "meta_gradient.sigma=0.01", "meta_gradient.clip=null"),
    *("learner.meta_optimizer.lr=1.5e-3", "learner.ema_decay=0.998", "+learner.meta_scheduler.T_max=6000"),
    *(f"{FAMILY(name)}.horizon.high=1500" for name in FAMILIES),
    *(f"{FAMILY(name)}.weight=1" for name in ("autoencoder", "char_gru")),
    *(f"{FAMILY('mlp_colours')}.sample_optimizee.make.{sizes}" for sizes in ("sides=[4,8]", "widths=[8,64]")),
    "trainer.max_epochs=5",
]
SECOND = [  # long averages at a low rate, chosen by short episodes
    *("meta_gradient.sigma=0.03", "learner.meta_optimizer.lr=1.5e-4", "learner.ema_decay=0.997"),
    *("learner.horizon=200", "learner.episodes_per_epoch=20", "+learner.meta_scheduler.T_max=2200"),
    *(f"{FAMILY('quadratics')}.weight=0.3", "trainer.max_epochs=6"),
]
THIRD = [  # orthogonal directions; wider networks, and the end of an episode counts far more than its start
    "optimizer.changes={orthogonal: true, iterations: 3, exempt: embed}",
    *("learner.meta_optimizer.lr=4e-4", "meta_gradient.emphasis=5", "+learner.meta_scheduler.T_max=1000"),
    f"{FAMILY('mlp_images')}.sample_optimizee.count=48",
    *(f"{FAMILY(name)}.sample_optimizee.make.sides=[7,14]" for name in ("mlp_images", "mlp_colours")),
    f"{FAMILY('mlp_images')}.sample_optimizee.make.widths=[16,128]",
    f"{FAMILY('mlp_colours')}.sample_optimizee.make.widths=[16,96]",
    "trainer.max_epochs=3",
]


STAGES = {"first": FIRST, "second": SECOND, "third": THIRD}


def overrides(stage: str, images: Path, colour_images: Path, seed: int, before: Path | None) -> list[str]:
    """Give the overrides of a stage's train.py, which goes on from the optimizer in the folder `before`."""
    return [
        *("experiment=general_images", f"dataset.path={_quoted(images.absolute())}"),
        *(f"colour_images={_quoted(colour_images.absolute())}", f"seed={seed}", "~evaluation", "logger=csv"),
        *("learner.validation_horizons=null", "~learner.validation.regression"),  # came after this recipe
        *(["optimizer=pretrained", f"optimizer.name={_quoted(before)}"] if before else []),
        *STAGES[stage],
    ]


def _quoted(path: Path) -> str:
    """Write a path as Hydra reads it, whatever characters it has."""
    return QuotedString(str(path), Quote.double).with_quotes()


@in_one_line
def main() -> None:
    """Run the three stages, and say where the trained optimizer is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="an .npz file of MNIST")
    parser.add_argument("colour_images", type=Path, help="an .npz file of CIFAR-10, colours last")
    parser.add_argument("folder", type=Path, help="where the runs go")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    before = None
    for name in STAGES:
        run = [*overrides(name, given.images, given.colour_images, given.seed, before), "ckpt_path=auto"]
        folder = given.folder.absolute() / name
        program = [sys.executable, str(ROOT / "train.py"), *run, f"hydra.run.dir={_quoted(folder)}"]
        if failed := subprocess.run(program, check=False).returncode:  # the program has said why
            sys.exit(failed)
        before = folder / "best"
    print(f"trained: {before}")


if __name__ == "__main__":
    main()
