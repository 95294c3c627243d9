"""What earlier versions wrote still loads.

`golden/before_folders` holds what `train.py experiment=quadratic` wrote (two epochs of six windows, in small) when all
modules lay in one folder: an exported rule, and a checkpoint.
"""

from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping

from l2o import from_pretrained
from l2o.optimizees import Quadratic
from l2o.optimizers import LSTM
from l2o.training.learner import MetaLearner

OLDER = Path(__file__).with_name("golden") / "before_folders"


def test_an_exported_rule_and_the_best_rule_of_a_checkpoint_are_the_same() -> None:
    exported, checkpoint = from_pretrained(OLDER / "best"), from_pretrained(OLDER / "last.ckpt")
    assert isinstance(exported, LSTM) and exported.hidden_size == 3
    assert exported.card is not None and exported.card["horizon"] == 12
    weights = exported.state_dict()
    assert weights.keys() == checkpoint.state_dict().keys()
    assert all(torch.equal(value, weights[name]) for name, value in checkpoint.state_dict().items())


def test_a_checkpoint_is_resumed() -> None:
    rule = LSTM(hidden_size=3, num_layers=1, output_scale=1.0, head_init=0.0)
    sizes = {"horizon": 12, "window": 4, "num_tasks": 2, "episodes_per_epoch": 2, "validation_tasks": 3}
    learner = MetaLearner(rule, Quadratic(10), **sizes)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    quiet |= {"enable_model_summary": False, "num_sanity_val_steps": 0, "inference_mode": False}
    stopping = EarlyStopping("val/final_loss", patience=30, check_on_train_epoch_end=False)  # as train.py has it
    trainer = pl.Trainer(callbacks=[stopping], accelerator="cpu", devices=1, max_epochs=3, **quiet)
    trainer.fit(learner, ckpt_path=OLDER / "last.ckpt", weights_only=True)
    assert learner.state.windows == 18 and trainer.current_epoch == 3
    assert learner.best_loss <= 4.83121387163798  # what the two epochs before had found
