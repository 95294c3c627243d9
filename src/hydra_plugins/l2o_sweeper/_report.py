"""What a search found: a table, a figure, the best trial as a config, a run in W&B."""

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.types import Override
from hydra.utils import instantiate
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf
from optuna.trial import FrozenTrial
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from hydra_plugins.l2o_sweeper._search import Search, is_setting
from l2o.files import replacing, write_text

if TYPE_CHECKING:
    from pytorch_lightning.loggers import WandbLogger


def loss_of(trial: FrozenTrial) -> float:
    """An ended trial's loss."""
    assert trial.value is not None
    return trial.value


def table(search: Search, trials: Sequence[FrozenTrial]) -> Table:
    """A row per trial, in the order given."""
    result = Table(box=SIMPLE_HEAD, padding=(0, 1))
    for heading in ("trial", *search.space, "loss"):
        result.add_column(heading, justify="right", overflow="fold")
    for trial in trials:
        reason = trial.user_attrs.get("diverged")
        loss = f"diverged: {reason}" if reason else f"{loss_of(trial):.6g}"
        result.add_row(str(trial.number), *(short(trial.params[key]) for key in search.space), loss)
    return result


def short(value: Any) -> str:
    """A parameter as people read it."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def draw(search: Search, trials: Sequence[FrozenTrial], path: Path) -> None:
    """Loss over each key of the space, side by side; a star for the best trial, crosses at the top for those that
    diverged. `trials` has the best first."""
    figure = Figure(figsize=(1 + 4 * len(search.space), 3.6), layout="constrained")
    panels = figure.subplots(1, len(search.space), sharey=True, squeeze=False)[0]
    good = [trial for trial in trials if "diverged" not in trial.user_attrs]
    bad = [trial for trial in trials if "diverged" in trial.user_attrs]
    losses = [loss_of(trial) for trial in good]
    for axes, (key, distribution) in zip(panels, search.space.items(), strict=True):
        places = [trial.params[key] for trial in good]
        axes.plot(places, losses, "o", color="black", alpha=0.7)
        axes.plot(places[:1], losses[:1], "*", color="tab:red", markersize=14, label=f"best: {losses[0]:.4g}")
        if bad:
            top = {"transform": axes.get_xaxis_transform(), "label": "diverged"}
            axes.plot([trial.params[key] for trial in bad], [0.97] * len(bad), "x", color="tab:gray", **top)
        axes.set(xlabel=key, xscale="log" if getattr(distribution, "log", False) else "linear")
        axes.grid(True, linestyle=":", linewidth=0.6)
    spread = losses[0] > 0 and losses[-1] > 5 * losses[0]
    panels[0].set(ylabel="Loss", yscale="log" if spread else "linear")
    panels[0].legend(fontsize="small")
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=160)


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


def log_to_wandb(logger: "WandbLogger", search: Search, trials: Sequence[FrozenTrial], figure: Path) -> None:
    """The table, the figure and the best trial."""
    rows = [[t.number, *map(t.params.get, search.space), loss_of(t), t.user_attrs.get("diverged")] for t in trials]
    logger.log_table("trials", columns=["trial", *search.space, "loss", "diverged"], data=rows)
    logger.log_image("figure", [str(figure)])
    logger.experiment.summary.update({"best_loss": loss_of(trials[0]), "best": dict(trials[0].params)})
    logger.experiment.finish()


def report(
    folder: Path,
    search: Search,
    trials: Sequence[FrozenTrial],
    best: Sequence[Override],
    config: DictConfig,
    loader: ConfigLoader,
    group: str,
) -> None:
    """Everything, into `folder` and onto the terminal. `best`: the overrides of the first trial, which is the best."""
    Console().print(table(search, trials))
    if "diverged" in trials[0].user_attrs:
        raise ValueError(
            f"every trial diverged; the first: {min(trials, key=lambda t: t.number).user_attrs['diverged']}"
        )
    draw(search, trials, folder / "sweep.png")
    program = config.hydra.job
    settings_left_out = [override for override in best if not is_setting(override)]
    best_yaml = best_config(settings_left_out, program.config_name, loader, own_folders(config.hydra))
    write_text(folder / "best.yaml", best_yaml)
    if OmegaConf.select(config, "logger.wandb"):
        logger = instantiate(config.logger.wandb, save_dir=str(folder), group=group, name="sweep", job_type="sweep")
        log_to_wandb(logger, search, trials, folder / "sweep.png")
    print(f"figure: {folder / 'sweep.png'}")
    print(f"the best trial's config: python {program.name}.py -cd {shlex.quote(str(folder))} -cn best")
