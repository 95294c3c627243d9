"""The commands around trained optimizers: `python -m l2o` lists them, `python -m l2o COMMAND --help` explains one."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

# Each command imports what it needs when it is called, so that a help costs nothing.


def parser() -> argparse.ArgumentParser:
    """Return the parser; a command's function is its `run`."""
    top = argparse.ArgumentParser("python -m l2o", description="The commands around trained optimizers.")
    commands = top.add_subparsers(metavar="COMMAND", title="commands")
    _add_import(commands)
    _add_figure6(commands)
    _add_list(commands)
    _add_diagnose(commands)
    _add_scoreboard(commands)
    return top


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command. A mistake in what was given ends with one line on stderr; L2O_TRACEBACK=1 shows its source."""
    top = parser()
    given = top.parse_args(arguments)
    if not hasattr(given, "run"):
        top.print_help()
        return
    try:
        given.run(given)
    except (ValueError, OSError) as error:
        if os.environ.get("L2O_TRACEBACK") == "1":
            raise
        from l2o.files import without_number

        sys.exit(f"error: {' '.join(without_number(str(error)).split())}")


def _add_import(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser(
        "import",
        help="make an exported optimizer of published weights",
        description="Make an exported optimizer of published weights (.npz, .safetensors, .bin, .pt, .pth) of Celo, "
        "Celo2, learned_optimization, PyLO, DeepMind's learning-to-learn, or RNNProp. `l2o.from_pretrained(FOLDER)` "
        "then loads it.",
    )
    command.add_argument("file", help="the file with the published weights")
    command.add_argument("folder", help="where the exported optimizer goes")
    command.set_defaults(run=_import)


def _import(given: argparse.Namespace) -> None:
    from l2o.deploy.import_published import import_published

    rule, folder = import_published(given.file, given.folder)
    print(f"{type(rule).__name__}: {folder}")


def _add_figure6(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser(
        "figure6",
        help="draw final losses over hidden units and layers",
        description="Draw figure 6 of Andrychowicz et al. (2016), final losses over hidden units with a panel for each "
        "number of layers, from a multirun of evaluate.py over optimizee.network.hidden. Writes FOLDER/figure6.png.",
    )
    command.add_argument("folder", type=Path, help="of the multirun: outputs/multirun/mnist_grid/DATE")
    command.add_argument("--trained", type=int, nargs=2, default=(1, 20), metavar=("LAYERS", "UNITS"),
                         help="the network that the optimizer was trained on (1 20)")  # fmt: skip
    command.set_defaults(run=_figure6)


def _figure6(given: argparse.Namespace) -> None:
    from l2o.figures.layers_by_units import collect, plot_grid

    points = collect(given.folder)
    print(f"figure: {plot_grid(points, given.folder / 'figure6.png', tuple(given.trained))}")


def _add_list(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser(
        "list",
        help="list the trained optimizers in the package",
        description="List the trained optimizers in the package, which l2o.from_pretrained takes by name: what each "
        "was trained on, where its problems started (θ_0), and for how many steps (its horizon).",
    )
    command.set_defaults(run=_list)


def _list(given: argparse.Namespace) -> None:
    from l2o.deploy.hub import list_pretrained

    print(list_pretrained())


def _add_diagnose(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser(
        "diagnose",
        help="measure how good estimates of the meta-gradient are",
        description="Measure the signal-to-noise ratio, the bias and the cost of estimates of the meta-gradient at an "
        "optimizer's φ, by estimator, horizon and window, on a ReLU network that learns images. Prints a table, and "
        "writes FOLDER/diagnosis.json and FOLDER/diagnosis.png.",
    )
    command.add_argument("optimizer", help="as l2o.from_pretrained takes it, or adafac_mlp for an untrained AdafacMLP")
    command.add_argument("folder", type=Path, help="where the files go")
    add = lambda name, default, text, **more: command.add_argument(  # noqa: E731
        name, default=default, help=f"{text} ({default})", **more
    )
    add("--estimators", ["full_es", "es", "pes", "nres", "tbptt"], "some of full_es, es, pes, nres, gpes:STEPS, tbptt, "
        "full_bptt", nargs="+")  # fmt: skip
    add("--horizons", [20, 50, 200], "steps of an episode", type=int, nargs="+")
    add("--windows", [10], "steps of a window", type=int, nargs="+")
    add("--tasks", 8, "tasks of an estimate, or antithetic pairs", type=int)
    add("--estimates", 8, "estimates of each kind; twice as many of FullES, by which bias is measured", type=int)
    add("--sigma", 0.01, "of all evolution strategies", type=float)
    add("--images", None, "an .npz file with x_train, y_train, x_test, y_test; by default scikit-learn's digits")
    add("--side", 8, "pixels of a side, to which images are averaged", type=int)
    add("--hidden", [32], "units of each hidden layer", type=int, nargs="*")
    add("--batch", 64, "images of a minibatch", type=int)
    add("--seed", 0, "of tasks and perturbations", type=int)
    add("--imports", [], "modules of yours to import first, of which the optimizer's class may be one", nargs="+")
    command.set_defaults(run=_diagnose)


def _diagnose(given: argparse.Namespace) -> None:
    from omegaconf import OmegaConf

    from l2o.runs.command_line.own_code import import_own
    from l2o.runs.diagnosing import diagnosed

    import_own(OmegaConf.create({"imports": given.imports}), str(Path.cwd()))
    diagnosed(given)


def _add_scoreboard(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser(
        "scoreboard",
        help="write the page and the figure of a scoreboard",
        description="Write the page of a scoreboard in Markdown, and its figure beside it, from the results that "
        "evaluate.py suite=NAME has left, without running anything. --baselines keeps its baselines for later runs.",
    )
    command.add_argument("results", type=Path, help="a scoreboard.json, or the folder that it lies in")
    command.add_argument("page", type=Path, help="the page to write, as docs/scoreboard.md")
    kept = "also write the outcomes of the baselines alone, as src/l2o/evaluation/baselines/SUITE.json holds them"
    command.add_argument("--baselines", type=Path, metavar="FILE", help=kept)
    command.set_defaults(run=_scoreboard)


def _scoreboard(given: argparse.Namespace) -> None:
    from l2o.evaluation.scoreboard_files import save_baselines
    from l2o.figures.scoreboard import write_page

    path = given.results / "scoreboard.json" if given.results.is_dir() else given.results
    if not path.is_file():
        where = "what evaluate.py suite=NAME has left: a scoreboard.json, or the folder that it lies in"
        raise ValueError(f"there is no file '{path}': give {where}")
    print(*write_page(path, given.page), sep="\n")
    if given.baselines:
        save_baselines(path, given.baselines)
        print(given.baselines)


if __name__ == "__main__":
    main()
