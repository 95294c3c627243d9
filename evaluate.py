"""Compare optimizers, learned and hand-designed, on the same problems: `python evaluate.py --help`."""

from pathlib import Path

import hydra
from omegaconf import DictConfig

from l2o.runs.command_line.null_groups import leave_out_null_groups
from l2o.runs.command_line.own_code import prepare
from l2o.runs.errors import in_one_line
from l2o.runs.leftovers import nothing_left_if_refused
from l2o.runs.waiting import wait_briefly


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
@in_one_line
def main(cfg: DictConfig) -> float | None:
    """Write figures and numbers into the output folder; return the loss by which the jobs of a grid are compared."""
    with nothing_left_if_refused(cfg.output_dir):
        prepare(cfg)
        from l2o.runs import comparing, drawing, mapping, scoring  # heavy: after the command line has been checked

        if cfg.runs is not None:
            return drawing.draw_runs(cfg)
        if cfg.get("map"):
            opened = mapping.open_map(cfg)
        else:
            opened = scoring.open_suite(cfg) if cfg.get("suite") else comparing.open_comparison(cfg)
    if isinstance(opened, comparing.Opened):
        comparing.report(opened, comparison := comparing.compare(opened))
        return comparison.loss()
    report = mapping.report_map if cfg.get("map") else scoring.report
    report(opened, board := scoring.score(opened))
    return scoring.relative_loss(board)


if __name__ == "__main__":
    wait_briefly()
    leave_out_null_groups(Path(__file__).with_name("conf"))
    in_one_line(main)()
