"""Compare optimizers, learned and hand-designed, on the same problems: `python evaluate.py --help`."""

from pathlib import Path

import hydra
from omegaconf import DictConfig

from l2o.runs.command_line.null_groups import leave_out_null_groups
from l2o.runs.command_line.own_code import prepare
from l2o.runs.errors import in_one_line
from l2o.runs.leftovers import nothing_left_if_refused


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
@in_one_line
def main(cfg: DictConfig) -> None:
    """Write curves, a summary and figures into the output folder; of a suite or a map, its own."""
    with nothing_left_if_refused(cfg.output_dir):
        prepare(cfg)
        from l2o.runs import comparing, mapping, scoring  # heavy: after the command line has been checked

        if cfg.get("map"):
            opened = mapping.open_map(cfg)
        else:
            opened = scoring.open_suite(cfg) if cfg.get("suite") else comparing.open_comparison(cfg)
    if isinstance(opened, comparing.Opened):
        comparing.report(opened, comparing.compare(opened))
    elif cfg.get("map"):
        mapping.report_map(opened, scoring.score(opened))
    else:
        scoring.report(opened, scoring.score(opened))


if __name__ == "__main__":
    leave_out_null_groups(Path(__file__).with_name("conf"))
    in_one_line(main)()
