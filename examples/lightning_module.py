"""A learned optimizer in a LightningModule, with a schedule and clipping, as any other.

python examples/lightning_module.py RULE [--epochs 5]
"""

import argparse
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import l2o
from l2o.data import digits
from l2o.runs.errors import in_one_line


class Digits(pl.LightningModule):
    """A small MLP; nothing but `configure_optimizers` knows of learned optimizers."""

    def __init__(self, rule: str):
        super().__init__()
        self.save_hyperparameters()
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Sigmoid(), nn.Linear(32, 10))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self.network(batch[0]), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        accuracy = (self.network(batch[0]).argmax(1) == batch[1]).float().mean()
        self.log("accuracy", accuracy, prog_bar=True)

    def configure_optimizers(self) -> Any:
        rule = l2o.from_pretrained(self.hparams["rule"])
        optimizer = l2o.LearnedOptimizer(self.network.named_parameters(), rule)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)]  # of what the rule proposes


@in_one_line
def main() -> None:
    """Prints the accuracy after the last epoch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rule")
    parser.add_argument("--epochs", type=int, default=5)
    given = parser.parse_args()

    pl.seed_everything(0, verbose=False)
    data = digits()
    train = DataLoader(TensorDataset(data.x_train, data.y_train), batch_size=128, shuffle=True)
    test = DataLoader(TensorDataset(data.x_test, data.y_test), batch_size=1000)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=given.epochs,
        gradient_clip_val=1.0,
        log_every_n_steps=5,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Digits(given.rule), train, test)
    print(f"test accuracy {trainer.callback_metrics['accuracy'].item():.3f}")


if __name__ == "__main__":
    main()
