"""Meta-train an optimizer, compare it with tuned baselines on fresh problems, export it: `python train.py --help`."""

from pathlib import Path

from l2o.runs.preemption import listen_while_importing

listen_while_importing()  # a signal ends the program with its documented status, also before everything is imported

import hydra
from omegaconf import DictConfig

from l2o.runs.command_line.null_groups import leave_out_null_groups
from l2o.runs.command_line.own_code import prepare
from l2o.runs.errors import in_one_line
from l2o.runs.leftovers import nothing_left_if_refused
from l2o.runs.waiting import wait_briefly


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
@in_one_line
def main(cfg: DictConfig) -> float:
    """Meta-train as the configuration says; return the best final validation loss."""
    # PyTorch and Lightning take seconds to import. They come after Hydra has read and checked the command line, so that
    # `--help` and a mistake are answered at once.
    from l2o.runs.locks import alone
    from l2o.runs.preemption import resumable

    with nothing_left_if_refused(cfg.output_dir):
        prepare(cfg)
    return alone(resumable(meta_train))(cfg)


def meta_train(cfg: DictConfig) -> float:
    """Open the run, fit, compare, report."""
    from l2o.runs.meta_training import compare, fit, open_run, report

    with nothing_left_if_refused(cfg.output_dir):
        run = open_run(cfg)
    fit(run)
    if run.trainer.is_global_zero:
        comparison = compare(run) if run.evaluation else None
        report(run, comparison)
    return run.learner.best_loss


if __name__ == "__main__":
    wait_briefly()
    leave_out_null_groups(Path(__file__).with_name("conf"))
    in_one_line(main)()
