"""Compare optimizers, learned and hand-designed, on the same problems: `python evaluate.py --help`."""

from pathlib import Path

import hydra
from omegaconf import DictConfig

from l2o.runs.command_line.command_words import leave_out_null_groups
from l2o.runs.command_line.own_code import prepare
from l2o.runs.errors import in_one_line


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
@in_one_line
def main(cfg: DictConfig) -> None:
    """Write curves.csv, summary.json, curves.png and proposals.png into the output folder."""
    prepare(cfg)
    from l2o.runs.comparing import compare, open_comparison, report  # heavy: after the command line has been checked

    opened = open_comparison(cfg)
    report(opened, compare(opened))


if __name__ == "__main__":
    leave_out_null_groups(Path(__file__).with_name("conf"))
    in_one_line(main)()
