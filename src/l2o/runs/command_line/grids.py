"""How a grid gets its report: Hydra's own sweeper gives way to the one of this package."""

from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, open_dict, read_write

HYDRAS = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
OURS = "hydra_plugins.l2o_sweeper.grid.GridSweeper"


class Grids(Callback):
    """Lets grids end with a table, a figure and the best job named (`hydra_plugins.l2o_sweeper.grid`).

    A group option in the configs could not do it: `sweep=…` chooses a sweeper of its own, and of two choices Hydra
    takes that of the program's config. A sweeper other than Hydra's default is left alone.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        sweeper = config.hydra.sweeper
        if sweeper.get("_target_") == HYDRAS:
            with read_write(config), open_dict(config):
                sweeper._target_ = OURS
