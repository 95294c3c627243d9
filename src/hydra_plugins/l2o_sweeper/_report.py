"""What a sweep found, on the terminal and in its folder: a table, a figure, the best job as a config, a run in W&B."""

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.types import Override
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from hydra_plugins.l2o_sweeper._figure import draw
from hydra_plugins.l2o_sweeper._rows import Row, as_text, in_words, means_over_seeds, table, table_of_means
from hydra_plugins.l2o_sweeper._settings import is_setting
from l2o.files import write_text

if TYPE_CHECKING:
    from pytorch_lightning.loggers import WandbLogger


@dataclass(frozen=True)
class Sweep:
    """Hold what a report needs to know of a sweep: its folder and config, and how it is spoken of.

    `keys` are those that differ between its jobs. A job is called a trial in a search. `heading` names the loss.
    """

    folder: Path
    config: DictConfig
    loader: ConfigLoader
    group: str
    keys: Sequence[str]
    job: str
    heading: str
    is_grid: bool


def own_folders(config: DictConfig) -> list[str]:
    """Where the configs of the user were found: the folder of `--config-dir`, then those of `hydra.searchpath`."""
    sources = OmegaConf.select(config, "runtime.config_sources") or []
    given = [f"{source.schema}://{source.path}" for source in sources if source.provider == "command-line"]
    return [*given, *(OmegaConf.select(config, "searchpath") or [])]


def best_config(
    overrides: Iterable[Override], primary: str, loader: ConfigLoader, searchpath: Sequence[str] = ()
) -> str:
    """Overrides as a config on top of the program's, for `--config-dir FOLDER --config-name best`.

    It carries `searchpath`, the folders of the user's own configs, because `--config-dir` can be given only once.
    """
    defaults: list[Any] = [primary]
    values, notes = OmegaConf.create(), ""
    for override in overrides:
        key, place = override.key_or_group, f"/{override.get_key_element().lstrip('+~')}"
        if loader.get_group_options(key):
            choice = None if override.is_delete() else override.value()
            defaults.append({place if override.is_add() else f"override {place}": choice})
        elif override.is_delete():
            notes += f"# no config can say this, give it again: {override.input_line}\n"
        else:
            OmegaConf.update(values, key, override.value(), force_add=True)
    if searchpath:
        OmegaConf.update(values, "hydra.searchpath", list(searchpath), force_add=True)
    return notes + OmegaConf.to_yaml(OmegaConf.merge({"defaults": [*defaults, "_self_"]}, values))


def log_to_wandb(logger: "WandbLogger", sweep: Sweep, rows: Sequence[Row], figure: Path) -> None:
    """Log the table, the figure and the best job."""
    lines = [[row.number, *map(row.params.get, sweep.keys), row.loss, row.problem] for row in rows]
    logger.log_table(f"{sweep.job}s", columns=[sweep.job, *sweep.keys, "loss", "problem"], data=lines)
    logger.log_image("figure", [str(figure)])
    logger.experiment.summary.update({"best_loss": rows[0].loss, "best": dict(rows[0].params)})
    logger.experiment.finish()


def report_table(sweep: Sweep, rows: Sequence[Row]) -> None:
    """Print the table, and the means over seeds where there are any, and write both into sweep.txt."""
    means = means_over_seeds(rows) if sweep.is_grid else []
    tables = [table(sweep.keys, rows, sweep.job, sweep.heading), *([table_of_means(means)] if means else [])]
    for one in tables:
        Console().print(one)
    if sweep.folder.is_dir():  # jobs that are refused leave nothing behind, and where all are, not even the folder
        write_text(sweep.folder / "sweep.txt", as_text(tables))


def report_best(sweep: Sweep, rows: Sequence[Row], overrides: Iterable[Override]) -> None:
    """Draw the figure, write the best job's config, tell W&B, and name the best job.

    `rows` has the best job first, which has a loss, and `overrides` are that job's.
    """
    best, folder, program = rows[0], sweep.folder, sweep.config.hydra.job
    draw(sweep.keys, rows, folder / "sweep.png", sweep.heading.capitalize(), means=sweep.is_grid)
    settings_left_out = [override for override in overrides if not is_setting(override)]
    best_yaml = best_config(settings_left_out, program.config_name, sweep.loader, own_folders(sweep.config.hydra))
    write_text(folder / "best.yaml", best_yaml)
    if OmegaConf.select(sweep.config, "logger.wandb"):
        settings = {"save_dir": str(folder), "group": sweep.group, "name": "sweep", "job_type": "sweep"}
        log_to_wandb(instantiate(sweep.config.logger.wandb, **settings), sweep, rows, folder / "sweep.png")
    print(f"figure: {folder / 'sweep.png'}", f"table: {folder / 'sweep.txt'}", sep="\n")
    given = f" ({in_words(best.params)})" if best.params else ""
    print(f"the best {sweep.job}: {best.number}{given}, {sweep.heading} {best.loss:.6g}")
    if sweep.is_grid and (means := means_over_seeds(rows)):
        print(f"the best over seeds: {in_words(means[0].params)}, {means[0]}")
    print(f"the best {sweep.job}'s config: python {program.name}.py -cd {shlex.quote(str(folder))} -cn best")
