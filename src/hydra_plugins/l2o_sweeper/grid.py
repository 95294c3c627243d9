"""Grids: every combination of values, as Hydra's own sweeper runs them, with a report at their end."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    from hydra_plugins.l2o_sweeper._report import Sweep


class GridSweeper(BasicSweeper):
    """Runs a grid through any launcher. It ends with a table, a figure and the best job named, as a search does.

    A job that fails is listed in the table with the reason, and the others run all the same. The grid then ends with
    one line and a status that is not zero. Hydra's own sweeper, whose place this one takes (`l2o.runs.command_line.
    grids`), ends at the first job that fails.
    """

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from hydra_plugins.l2o_sweeper._outcomes import Recorded

        self.folder = Path(config.hydra.sweep.dir).absolute()
        recorded = Recorded(task_function, self.folder / "outcomes")
        super().setup(hydra_context=hydra_context, task_function=recorded, config=config)

    def sweep(self, arguments: list[str]) -> list[JobReturn]:
        """Run all jobs and report. Raises ValueError where a job failed, after the report on the others."""
        from hydra_plugins.l2o_sweeper._grid_report import refuse_failed, rows_of
        from hydra_plugins.l2o_sweeper._report import report_best, report_table
        from hydra_plugins.l2o_sweeper._rows import ordered

        assert self.config is not None and self.hydra_context is not None and self.launcher is not None
        loader = self.hydra_context.config_loader
        parser = OverridesParser.create(config_loader=loader)
        overrides = parser.parse_overrides([*self._parse_config(), *arguments])
        batches = self.split_arguments(overrides, self.max_batch_size)
        for batch in batches:  # a mistake is found before anything is written
            self.validate_batch_is_legal(batch)
        self.folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, self.folder / "multirun.yaml")
        ended: list[JobReturn] = []
        for batch in batches:
            ended += self.launcher.launch(batch, initial_job_idx=len(ended))
        jobs = [parser.parse_overrides(list(job)) for batch in batches for job in batch]
        told = self._told(overrides)
        rows = ordered(rows_of(jobs, ended, told))
        report_table(told, rows)
        if rows and rows[0].loss is not None:
            report_best(told, rows, jobs[rows[0].number])
        refuse_failed(ended)
        return ended

    def _told(self, overrides: Sequence[Override]) -> "Sweep":
        """Return what the report needs to know."""
        from hydra_plugins.l2o_sweeper._report import Sweep

        assert self.config is not None and self.hydra_context is not None
        last: dict[str, Override] = {override.get_key_element(): override for override in overrides}
        keys = [key.lstrip("+") for key, override in last.items() if override.is_sweep_override()]
        config: Any = self.config
        compares = config.hydra.job.name == "evaluate"
        relative = compares and bool(config.get("suite") or config.get("map"))
        heading = "relative loss" if relative else "final loss" if compares else "validation loss"
        group = str(config.get("name", "grid"))
        return Sweep(self.folder, config, self.hydra_context.config_loader, group, keys, "job", heading, True)
