"""Compare optimizers, learned and hand-designed, on the same problems: `python evaluate.py --help`."""

from pathlib import Path

import hydra
from omegaconf import DictConfig

from l2o.runs.command_line.null_groups import leave_out_null_groups
from l2o.runs.command_line.own_code import prepare
from l2o.runs.errors import in_one_line


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
@in_one_line
def main(cfg: DictConfig) -> float | None:
    """Write figures and numbers into the output folder; return the loss by which the jobs of a grid are compared."""
    prepare(cfg)
    from l2o.runs import comparing, drawing, mapping, scoring  # heavy: after the command line has been checked

    if cfg.runs is not None:
        return drawing.draw_runs(cfg)
    if cfg.get("map"):
        points = mapping.open_map(cfg)
        mapping.report_map(points, board := scoring.score(points))
        return scoring.relative_loss(board)
    if cfg.get("suite"):
        suite = scoring.open_suite(cfg)
        scoring.report(suite, board := scoring.score(suite))
        return scoring.relative_loss(board)
    opened = comparing.open_comparison(cfg)
    comparing.report(opened, comparison := comparing.compare(opened))
    return comparison.loss()


if __name__ == "__main__":
    leave_out_null_groups(Path(__file__).with_name("conf"))
    in_one_line(main)()
