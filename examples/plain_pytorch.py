"""Train a classifier of handwritten digits with a learned optimizer, in a plain PyTorch loop.

    python examples/plain_pytorch.py RULE [--steps 200]

RULE names one that comes with l2o, one on the Hugging Face Hub (owner/name), an exported folder, or a checkpoint.
"""

import argparse

import torch
from torch import nn
from torch.nn import functional as F

import l2o
from l2o.data import digits
from l2o.runs.errors import in_one_line


@in_one_line
def main() -> None:
    """Prints the loss while it falls, and the accuracy on the test split."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rule")
    parser.add_argument("--steps", type=int, default=200)
    given = parser.parse_args()

    torch.manual_seed(0)
    data = digits()
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Sigmoid(), nn.Linear(32, 10))
    optimizer = l2o.LearnedOptimizer(model.named_parameters(), l2o.from_pretrained(given.rule))
    for step in range(given.steps):
        batch = torch.randint(len(data.x_train), (128,))
        loss = F.cross_entropy(model(data.x_train[batch]), data.y_train[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 20 == 0 or step == given.steps - 1:
            print(f"step {step:4}  loss {loss.item():.3f}")
    accuracy = (model(data.x_test).argmax(1) == data.y_test).float().mean().item()
    print(f"test accuracy {accuracy:.3f}")


if __name__ == "__main__":
    main()
