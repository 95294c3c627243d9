"""Finished runs that are to be drawn together, read before anything is written."""

from omegaconf import DictConfig


def refuse_runs(cfg: DictConfig) -> None:
    """Raise ValueError, in one line, for folders in `runs` that cannot be drawn together."""
    if cfg.get("runs") is None:
        return
    from l2o.runs.alike import groups_of  # numpy takes its time, which other runs need not wait for
    from l2o.runs.finished import read_runs

    groups_of(read_runs(cfg.runs))
