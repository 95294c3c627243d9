"""A run of evaluate.py: the optimizers that it compares, and the figures that it leaves."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console

from l2o import seeds
from l2o.evaluation.comparison import Comparison
from l2o.evaluation.evaluation import Evaluation
from l2o.evaluation.proposals import proposals, tuned
from l2o.figures import draw
from l2o.figures.proposals import plot_proposals
from l2o.optimizees import Optimizee
from l2o.optimizers import UpdateRule
from l2o.runs.devices import chosen_device, usable
from l2o.runs.learned import open_baselines, open_learned, refuse_same_names
from l2o.runs.loggers import log_comparison
from l2o.runs.problem import compared_optimizee, compares
from l2o.runs.provenance import provenance
from l2o.runs.titles import title_of
from l2o.runs.tunings import remember_tunings
from l2o.seeds import Stream

USUAL = ("SGD", "NAG", "RMSprop", "ADAM")
"""The baselines of conf/problem.yaml."""


@dataclass(frozen=True)
class Opened:
    """Everything that a run of evaluate.py has built. `learned` names the rules that were trained."""

    cfg: DictConfig
    learned: list[str]
    rules: Mapping[str, UpdateRule]
    optimizee: Optimizee
    evaluation: Evaluation
    device: str


def open_comparison(cfg: DictConfig) -> Opened:
    """Build the rules and the problem. Raises ValueError where there is nothing to compare or something is missing."""
    if not compares(cfg):
        raise ValueError("evaluate.py compares optimizers: evaluation=null leaves it nothing to do")
    learned, baselines = open_learned(cfg), open_baselines(cfg)
    refuse_same_names(learned, baselines)
    rules = learned | baselines
    if not rules:
        raise ValueError("there is no optimizer to compare: give a trained one as learned.LSTM=PATH, or a baseline")
    optimizee = instantiate(compared_optimizee(cfg))
    if learned and cfg.get("proposals"):
        _refuse_proposals(cfg.proposals, rules, optimizee.layout.size)
    device = usable(chosen_device(cfg.device))
    return Opened(cfg, list(learned), rules, optimizee, instantiate(cfg.evaluation), device)


def _refuse_proposals(chosen: DictConfig, rules: Mapping[str, UpdateRule], size: int) -> None:
    """Raise ValueError for an optimizer that is not compared, and for more coordinates than the problem has.

    The usual baselines may be left out of the comparison.
    """
    if unknown := [name for name in chosen.beside if name not in (*rules, *USUAL)]:
        raise ValueError(f"proposals.beside names {unknown[0]}, which is not compared: {', '.join(rules)}")
    if chosen.coordinates > size:
        raise ValueError(
            f"proposals.coordinates must be at most {size}, which the problem has, got {chosen.coordinates}"
        )


def compare(opened: Opened) -> Comparison:
    """Curves of all rules on the same fresh problems."""
    problem = compared_optimizee(opened.cfg)
    remember = remember_tunings(opened.evaluation, problem, opened.optimizee, opened.device)
    return opened.evaluation(opened.rules, opened.optimizee, opened.device, remember)


def report(opened: Opened, comparison: Comparison) -> None:
    """Write curves, figures and the table into the output folder and into the loggers."""
    cfg, output = opened.cfg, Path(opened.cfg.output_dir)
    comparison.save(output, {"provenance": provenance()})
    figures = draw(comparison, output, title_of(cfg))
    if opened.learned and cfg.get("proposals"):
        figures["proposals"] = _draw_proposals(opened, comparison, output / "proposals.png")
    log_comparison(instantiate(cfg.get("logger") or {}).values(), comparison, figures)
    Console().print(comparison.table())
    print(*(f"figure: {path}" for path in figures.values()), sep="\n")


def _draw_proposals(opened: Opened, comparison: Comparison, path: Path) -> Path:
    """Draw what the first learned rule proposes beside what the baselines would, on a problem of the comparison."""
    at_rates, chosen = tuned(opened.rules, comparison), opened.cfg.proposals
    beside = [name for name in chosen.beside if name in opened.rules]
    stream = seeds.generator(opened.evaluation.seed, Stream.EVALUATION, device=opened.device)
    shown = proposals(
        {name: at_rates[name] for name in [opened.learned[0], *beside]},
        opened.optimizee.split("test"),
        opened.evaluation.num_steps,
        chosen.coordinates,
        stream,
    )
    return plot_proposals(shown, path, title_of(opened.cfg))
