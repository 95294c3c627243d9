"""A run of train.py: what it builds from its configuration, its comparison with the baselines, and what it leaves."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Callback, EarlyStopping
from pytorch_lightning.loggers import Logger
from rich.console import Console

from l2o.checks import valid_seed
from l2o.deploy.export import read_checkpoint
from l2o.evaluation.comparison import Comparison
from l2o.evaluation.evaluation import Evaluation
from l2o.figures import draw
from l2o.optimizees import Optimizee
from l2o.optimizers import UpdateRule
from l2o.runs import checkpoint_files
from l2o.runs.card import of_run
from l2o.runs.checkpoints import Checkpoints
from l2o.runs.exported import export_best
from l2o.runs.learned import open_baselines
from l2o.runs.loggers import continue_csv, log_comparison
from l2o.runs.problem import compared_optimizee, compares
from l2o.runs.progress import Progress
from l2o.runs.provenance import provenance
from l2o.runs.ranks import as_one, refuse_relaunch
from l2o.runs.snapshots import Snapshots
from l2o.runs.titles import title_of
from l2o.runs.tunings import remember_tunings
from l2o.training import warm_start
from l2o.training.learner import MetaLearner

warnings.filterwarnings("ignore", ".*isinstance.treespec, LeafSpec.* is deprecated", FutureWarning)  # Lightning's own


@dataclass(frozen=True)
class Run:
    """Everything that a run of train.py has built. `evaluation` is None where nothing is compared."""

    cfg: DictConfig
    resumed: Path | None
    learner: MetaLearner
    trainer: pl.Trainer
    loggers: list[Logger]
    compared: Optimizee
    evaluation: Evaluation | None
    baselines: Mapping[str, UpdateRule]


def open_run(cfg: DictConfig) -> Run:
    """Build what the configuration describes. Nothing is trained yet, and a ValueError names what cannot be built."""
    pl.seed_everything(valid_seed(cfg.seed), verbose=False)
    resumed = checkpoint_files.find(cfg.ckpt_path, Path(cfg.output_dir))
    before: dict[str, Any] = read_checkpoint(resumed) if resumed else {"l2o": {"windows": 0}}
    rule, optimizee = instantiate(cfg.optimizer, _convert_="all").train(), instantiate(cfg.optimizee)
    learner = instantiate(cfg.learner, rule=rule, optimizee=optimizee, _convert_="all")
    compared = instantiate(compared_optimizee(cfg)) if cfg.evaluation_optimizee else optimizee
    baselines = open_baselines(cfg)
    if compares(cfg) and (label := rule.label) in baselines:
        raise ValueError(f"baselines.{label} has the name of the optimizer that is trained: give it another one")
    evaluation = instantiate(cfg.evaluation) if compares(cfg) else None
    if learner.warm_start and not resumed:
        warm_start.read(learner.warm_start)  # it is read when training starts; here it is refused if it is no such file
    trainer = instantiate(cfg.trainer, callbacks=_callbacks(cfg), logger=False, _convert_="all")
    refuse_relaunch(trainer)
    trainer.loggers = loggers = _loggers(cfg, before.get("wandb"))  # last, as they write: a refusal leaves nothing
    continue_csv(loggers, before["l2o"]["windows"] - before["l2o"].get("windows_before", 0))
    settings: Any = OmegaConf.to_container(cfg, resolve=True)
    for logger in loggers:
        logger.log_hyperparams(settings)
    return Run(cfg, resumed, learner, trainer, loggers, compared, evaluation, baselines)


def fit(run: Run) -> None:
    """Meta-train, from the checkpoint on where the run goes on from one."""
    with as_one(run.trainer):
        run.trainer.fit(run.learner, ckpt_path=run.resumed, weights_only=True)


def compare(run: Run) -> Comparison:
    """Compare the best rule of the run with the baselines on fresh problems."""
    assert run.evaluation
    best = run.learner.best_rule()
    best.card = of_run(run.cfg)  # it says for how many steps the rule was trained
    rules = {best.label: best, **run.baselines}
    device = run.trainer.strategy.root_device
    remember = remember_tunings(run.evaluation, compared_optimizee(run.cfg), run.compared, device)
    return run.evaluation(rules, run.compared, device, remember)


def report(run: Run, comparison: Comparison | None) -> None:
    """Write curves, figures and the trained optimizer into the run's folder, and say where they are."""
    output, figures, made = Path(run.cfg.output_dir), {}, {"provenance": provenance()}
    if comparison:
        comparison.save(output, made)
        figures = draw(comparison, output, title_of(run.cfg))
        log_comparison(run.loggers, comparison, figures)
        Console().print(comparison.table())
    export_best(run.learner, output / "best", of_run(run.cfg, comparison) | made)
    print(*(f"figure: {path}" for path in figures.values()), f"trained optimizer: {output / 'best'}", sep="\n")


def _callbacks(cfg: DictConfig) -> list[Callback]:
    card = of_run(cfg)
    callbacks: list[Callback] = [Progress(), Checkpoints(cfg.output_dir, cfg.checkpoint_minutes, card=card)]
    if cfg.learner.snapshots:
        callbacks.append(Snapshots(cfg.output_dir, card))
    if cfg.early_stopping is not None:  # first, so that a checkpoint holds what it has counted
        stopping = EarlyStopping("val/final_loss", patience=cfg.early_stopping, check_on_train_epoch_end=False)
        callbacks.insert(0, stopping)
    return callbacks


def _loggers(cfg: DictConfig, wandb_run: str | None) -> list[Logger]:
    """The loggers of the configuration; W&B goes on with the run of the checkpoint unless another one is named."""
    chosen = cfg.get("logger") or DictConfig({})
    if "wandb" in chosen and chosen.wandb.id is None:
        chosen.wandb.id = wandb_run
    return list(instantiate(chosen).values())
