"""Compare optimizers, learned and hand-designed, on the same problems. See `python evaluate.py --help`."""

from pathlib import Path

import hydra
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from l2o import seeds
from l2o.deploy.hub import from_pretrained
from l2o.evaluation.proposals import plot_proposals, proposals, tuned
from l2o.figures import draw
from l2o.runs.errors import in_one_line
from l2o.runs.loggers import log_comparison
from l2o.seeds import Stream


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
@in_one_line
def main(cfg: DictConfig) -> None:
    """Writes curves.csv, summary.json, curves.png and proposals.png into the output folder."""
    output = Path(cfg.output_dir)
    device = ("cuda" if torch.cuda.is_available() else "cpu") if cfg.device == "auto" else cfg.device
    learned = {name: from_pretrained(path) for name, path in (cfg.learned or {}).items() if path}
    rules = learned | dict(instantiate(cfg.optimizers))
    optimizee = instantiate(OmegaConf.merge(cfg.optimizee, cfg.evaluation_optimizee))
    comparison = instantiate(cfg.evaluation)(rules, optimizee, device)
    comparison.save(output)
    figures = draw(comparison, output, cfg.name)
    if learned and cfg.proposals:
        at_rates, names = tuned(rules, comparison), [next(iter(learned)), *cfg.proposals.beside]
        shown = proposals(
            {name: at_rates[name] for name in names if name in rules},
            optimizee.split("test"),
            cfg.evaluation.num_steps,
            cfg.proposals.coordinates,
            seeds.generator(cfg.seed, Stream.EVALUATION, device=device),
        )
        figures["proposals"] = plot_proposals(shown, output / "proposals.png", cfg.name)
    log_comparison(instantiate(cfg.logger).values(), comparison, figures)
    Console().print(comparison.table())
    print(*(f"figure: {path}" for path in figures.values()), sep="\n")


if __name__ == "__main__":
    in_one_line(main)()
