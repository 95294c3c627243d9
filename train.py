"""Meta-train an optimizer, compare it with tuned baselines on fresh problems, export it: `python train.py --help`."""

import warnings
from pathlib import Path

import hydra
import pytorch_lightning as pl
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Callback, EarlyStopping
from rich.console import Console

from l2o.checks import valid_seed
from l2o.deploy.export import read_checkpoint
from l2o.deploy.model_card import of_run
from l2o.figures import draw
from l2o.runs import checkpoint_files
from l2o.runs.checkpoints import Checkpoints
from l2o.runs.errors import in_one_line
from l2o.runs.exported import export_best
from l2o.runs.locks import alone
from l2o.runs.loggers import continue_csv, log_comparison
from l2o.runs.preemption import resumable
from l2o.runs.progress import Progress
from l2o.runs.ranks import as_one, refuse_relaunch

warnings.filterwarnings("ignore", ".*isinstance.treespec, LeafSpec.* is deprecated", FutureWarning)  # Lightning's own


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
@in_one_line
@alone
@resumable
def main(cfg: DictConfig) -> float:
    """Returns the best final validation loss."""
    pl.seed_everything(valid_seed(cfg.seed), verbose=False)
    output = Path(cfg.output_dir)
    resumed = checkpoint_files.find(cfg.ckpt_path, output)
    before = read_checkpoint(resumed) if resumed else {"l2o": {"windows": 0}}
    rule, optimizee = instantiate(cfg.optimizer, _convert_="all").train(), instantiate(cfg.optimizee)
    learner = instantiate(cfg.learner, rule=rule, optimizee=optimizee)
    changed = OmegaConf.merge(cfg.optimizee, cfg.evaluation_optimizee)
    compared = instantiate(changed) if cfg.evaluation_optimizee else optimizee
    evaluation, baselines = instantiate(cfg.evaluation), instantiate(cfg.baselines)
    callbacks: list[Callback] = [Progress(), Checkpoints(cfg.output_dir, cfg.checkpoint_minutes, card=of_run(cfg))]
    if cfg.early_stopping:  # first, so that a checkpoint holds what it has counted
        stopping = EarlyStopping("val/final_loss", patience=cfg.early_stopping, check_on_train_epoch_end=False)
        callbacks.insert(0, stopping)
    if "wandb" in cfg.logger and cfg.logger.wandb.id is None:
        cfg.logger.wandb.id = before.get("wandb")
    loggers = list(instantiate(cfg.logger).values())
    trainer = instantiate(cfg.trainer, callbacks=callbacks, logger=loggers)
    refuse_relaunch(trainer)
    continue_csv(loggers, before["l2o"]["windows"])
    for logger in loggers:
        logger.log_hyperparams(OmegaConf.to_container(cfg, resolve=True))
    with as_one(trainer):
        trainer.fit(learner, ckpt_path=resumed, weights_only=True)

    if trainer.is_global_zero:
        rules = {learner.rule.label: learner.best_rule(), **baselines}
        comparison = evaluation(rules, compared, trainer.strategy.root_device)
        comparison.save(output)
        figures = draw(comparison, output, cfg.name)
        log_comparison(loggers, comparison, figures)
        export_best(learner, output / "best", of_run(cfg, comparison))
        Console().print(comparison.table())
        print(*(f"figure: {path}" for path in figures.values()), f"trained optimizer: {output / 'best'}", sep="\n")
    return learner.best_loss


if __name__ == "__main__":
    in_one_line(main)()
