"""Your picture in the style of another (Gatys et al. 2015), painted by a learned optimizer.

    python examples/style_transfer.py RULE content.jpg style.jpg out.png [--weights squeezenet1_1.pth] [--side 128]

RULE is best one that was trained on neural art. `--weights` are those of torchvision's SqueezeNet: a state dict's file,
or IMAGENET1K_V1 to download them; without, the features are random, and so is the style's likeness.
"""

import argparse

import torch
from torch import nn

import l2o
from l2o.data import images
from l2o.optimizees import NeuralArt
from l2o.runs.errors import in_one_line


@in_one_line
def main() -> None:
    """Writes the picture; prints the loss while it falls."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("rule", "content", "style", "out"):
        parser.add_argument(name)
    parser.add_argument("--weights")
    parser.add_argument("--side", type=int, default=128, help="the shorter side is reduced to so many pixels")
    parser.add_argument("--steps", type=int, default=128)
    given = parser.parse_args()

    problem = NeuralArt(
        content_layers=["fire4"],
        style_layers=["conv1_1", "fire2", "fire3", "fire5"],
        content=given.content,
        style=given.style,
        weights=given.weights,
        size=None,
        content_side=given.side,
        style_side=min(given.side, 64),
    )
    theta, task = problem.sample(1, torch.Generator().manual_seed(0))
    pixels = nn.Parameter(theta)
    optimizer = l2o.LearnedOptimizer([pixels], l2o.from_pretrained(given.rule))
    for step in range(given.steps):
        loss = problem.losses(pixels, task).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 16 == 0 or step == given.steps - 1:
            print(f"step {step:4}  loss {loss.item():.4g}")
    images.save(problem.pictures(pixels.detach(), task)["theta"][0], given.out)
    print(f"picture: {given.out}")


if __name__ == "__main__":
    main()
