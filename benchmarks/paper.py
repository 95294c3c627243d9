"""Run every experiment of the paper, then write the tables and figures of docs/results.md and the notebook.

Finished parts are not run again, and an interrupted training goes on from its checkpoint. A part whose data is not
given is left out. All of it takes many hours on a CPU. With --shipped nothing is trained: the trained optimizers of the
package are compared with the baselines, which takes some hours, and what the package does not ship is left out. Which
commit made which table, when, and by which command is written into docs/notebook/runs.json.

    python benchmarks/paper.py --mnist mnist.npz --cifar cifar10.npz --content photographs --style wave.jpg \
        --other-style scream.jpg --style-2 udnie.jpg --style-3 shipwreck.jpg --styles training_photographs \
        --features squeezenet1_1.pth
    python benchmarks/paper.py --only quadratic digits
    python benchmarks/paper.py --shipped --only mnist mnist_200steps --mnist mnist.npz
"""

import argparse
import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"

MNIST, CIFAR = "dataset=npz dataset.path={mnist}", "dataset=npz dataset.path={cifar}"
LEARNED = "learned.LSTM={out}/RULES/0/best +learned.GAC={out}/RULES/1/best +learned.NTM-BFGS={out}/RULES/2/best"
ART = "optimizee.content={content} optimizee.style={style} optimizee.weights={features}"
START = "optimizer=pretrained optimizer.name={out}/cifar_small_training/best seed=1"
AT_200 = "evaluation.num_tasks=8 evaluation.num_steps=200 evaluation.table_steps=[50,100,200]"
GENERAL = "+learned.general=general"  # the package's optimizer for all problems, which is not trained here
CIFAR_LEARNED = {
    "cifar10": f"learned.LSTM={{out}}/cifar10_training/best {GENERAL}",
    **{
        name: f"learned.LSTM={{out}}/cifar10_training/best +learned.LSTM-sub={{out}}/{name}_sub_training/best {GENERAL}"
        for name in ("cifar5", "cifar2")
    },
}
ART_STYLES = "'+learned.LSTM-styles={{folder: {out}/neural_art_styles_training/best, output_scale: 0.2}}'"
ART_LEARNED = f"learned.LSTM={{out}}/neural_art_training/best {ART_STYLES} {GENERAL}"
MNIST_LEARNED = f"learned.LSTM={{out}}/mnist_training/best {GENERAL}"
RUNS = {  # what {out}/NAME holds, in an order in which every part finds the trained optimizers that it needs
    "quadratic_training": "train.py experiment=quadratic evaluation=null",
    "quadratic": f"evaluate.py experiment=quadratic learned.LSTM={{out}}/quadratic_training/best {GENERAL}",
    "digits": "train.py seed=0",
    "digits_seed1": "train.py seed=1",
    "digits_seed2": "train.py seed=2",
    "quadratic_rules": "train.py -m experiment=architectures_quadratic optimizer=lstm,lstm_gac,ntm_bfgs,ntm_lbfgs",
    "architectures_quadratic": "evaluate.py name=architectures_quadratic optimizee=quadratic evaluation.num_tasks=1024 "
    "evaluation.tuning_tasks=256 +learned.NTM-L-BFGS={out}/quadratic_rules/3/best "
    + LEARNED.replace("RULES", "quadratic_rules"),
    "digits_rules": "train.py -m experiment=architectures_digits optimizer=lstm,lstm_gac,ntm_bfgs",
    "architectures_digits": "evaluate.py name=architectures_digits " + LEARNED.replace("RULES", "digits_rules"),
    "mnist_start": f"train.py experiment=mnist {MNIST}",
    "mnist_training": f"train.py experiment=mnist {MNIST} optimizer=pretrained optimizer.name={{out}}/mnist_start/best "
    "seed=1 learner.meta_optimizer.lr=3e-3 learner.episodes_per_epoch=50 trainer.max_epochs=60 evaluation=null",
    **{
        name: f"evaluate.py experiment={name} {MNIST} {MNIST_LEARNED}"
        for name in ("mnist", "mnist_200steps", "mnist_40units", "mnist_2layers", "mnist_relu")
    },
    "mnist_grid": f"evaluate.py figure=mnist_grid {MNIST} optimizee.init_std=0.05 {MNIST_LEARNED}",
    "mnist_grid_start": f"evaluate.py figure=mnist_grid {MNIST} {MNIST_LEARNED}",
    "cifar_small_training": f"train.py experiment=cifar_small {CIFAR} evaluation=null",
    "cifar10_training": f"train.py experiment=cifar10 {CIFAR} {START} evaluation=null",
    **{
        f"{name}_sub_training": f"train.py experiment={name}_sub {CIFAR} {START} learner.meta_optimizer.lr=1e-4 "
        "evaluation=null"
        for name in ("cifar5", "cifar2")
    },
    **{name: f"evaluate.py experiment={name} {CIFAR} {AT_200} {learned}" for name, learned in CIFAR_LEARNED.items()},
    **{
        f"{name}_1000steps": f"evaluate.py experiment={name} name={name}_1000steps {CIFAR} "
        f"evaluation.num_tasks=2 {learned}"
        for name, learned in CIFAR_LEARNED.items()
    },
    "neural_art_training": f"train.py experiment=neural_art {ART} evaluation=null",
    "neural_art_styles_training": f"train.py experiment=neural_art {ART} optimizee.style={{styles}} "
    "optimizer=pretrained optimizer.name={out}/neural_art_training/best seed=1 learner.validation_tasks=16 "
    "trainer.max_epochs=40 evaluation=null",
    "neural_art": f"evaluate.py experiment=neural_art {ART} evaluation.num_tasks=50 {ART_LEARNED}",
    "neural_art_style": f"evaluate.py experiment=neural_art {ART} optimizee.style={{other_style}} "
    f"evaluation.num_tasks=50 evaluation.tuning_tasks=4 {ART_LEARNED}",
    **{
        f"neural_art_style_{n}": f"evaluate.py experiment=neural_art {ART} optimizee.style={{style_{n}}} "
        "evaluation.num_tasks=50 evaluation.tuning_tasks=4 evaluation.rates_range=[0.01,10] evaluation.rates_count=7 "
        f"{ART_LEARNED}"
        for n in (2, 3)
    },
    "neural_art_highres": f"evaluate.py experiment=neural_art {ART} optimizee=neural_art_highres "
    f"evaluation.num_tasks=8 evaluation.tuning_tasks=2 {ART_LEARNED}",
}
PUBLISHED: dict[str, dict[str, dict[int, float]]] = {  # digitised from the paper's figures, about ±2 %
    "mnist_start": {"LSTM": {20: 0.447, 50: 0.311, 100: 0.245}},
    "mnist": {
        "LSTM": {20: 0.447, 50: 0.311, 100: 0.245},
        "ADAM": {20: 1.50, 50: 0.482, 100: 0.351},
        "RMSprop": {20: 1.68, 50: 0.496, 100: 0.359},
        "NAG": {20: 1.41, 50: 0.453, 100: 0.318},
        "SGD": {20: 1.94, 50: 0.83, 100: 0.458},
    },
    "mnist_200steps": {
        "LSTM": {150: 0.220, 200: 0.208},
        "ADAM": {150: 0.323, 200: 0.301},
        "RMSprop": {150: 0.307, 200: 0.289},
        "NAG": {150: 0.279, 200: 0.257},
        "SGD": {150: 0.368, 200: 0.326},
    },
    "mnist_40units": {
        "LSTM": {50: 0.246, 100: 0.193},
        "ADAM": {50: 0.487, 100: 0.312},
        "RMSprop": {50: 0.463, 100: 0.325},
        "NAG": {50: 0.427, 100: 0.297},
        "SGD": {50: 0.84, 100: 0.44},
    },
    "mnist_2layers": {
        "LSTM": {50: 0.475, 100: 0.330},
        "ADAM": {50: 1.59, 100: 0.701},
        "RMSprop": {50: 1.52, 100: 0.726},
        "NAG": {50: 1.71, 100: 0.757},
        "SGD": {50: 1.97, 100: 1.78},
    },
    "mnist_relu": {
        "LSTM": {50: 2.29, 100: 2.57},
        "ADAM": {50: 0.53, 100: 0.372},
        "RMSprop": {50: 0.56, 100: 0.412},
        "NAG": {50: 0.47, 100: 0.36},
        "SGD": {50: 0.75, 100: 0.44},
    },
}


def commands(shipped: bool) -> dict[str, str]:
    """Return the command of every part; with `shipped` of those that need nothing trained but what the package has.

    What the part NAME_training has trained is NAME in the package. What a comparison changes of it, as the scale of its
    updates, is left out then: NAME in the package has been changed so already.
    """
    if not shipped:
        return RUNS
    trained = r"(={{folder: )?(?(1)|=){out}/(\w+)_training/best(?(1)[^}]*}})"
    found = {name: re.sub(trained, r"=\2", command) for name, command in RUNS.items()}
    return {name: line for name, line in found.items() if line.startswith("evaluate.py") and "{out}" not in line}


def run(name: str, command: str, folder: Path) -> None:
    """Run a part, unless it is done; a training resumes from its last checkpoint. A sweep's runs lie in subfolders.

    The file run.json tells the command and the seconds that it took since it was last started. A part that another
    command has made is not run again either, and a line says so.
    """
    sweep = " -m " in command or " figure=" in command
    compares = not sweep and "evaluation=null" not in command
    if (folder / ("summary.json" if compares else "run.json")).exists():
        return print(f"{name}: done before{_otherwise(folder, command)}", flush=True)
    resume = ["ckpt_path=auto"] if command.startswith("train.py") else []
    started = time.monotonic()
    print(f"{name}: python {command}", flush=True)
    words = [sys.executable, *shlex.split(command), *resume, f"hydra.{'sweep' if sweep else 'run'}.dir={folder}"]
    subprocess.run(words, cwd=ROOT, check=True)
    if " figure=" in command:
        subprocess.run([sys.executable, "-m", "l2o", "figure6", str(folder)], cwd=ROOT, check=True)
    (folder / "run.json").write_text(json.dumps({"command": command, "seconds": time.monotonic() - started}) + "\n")
    return None


def _otherwise(folder: Path, command: str) -> str:
    """Return what to say of a part that is done, where another command than today's has made it."""
    path = folder / "run.json"
    made = json.loads(path.read_text())["command"] if path.exists() else command
    return "" if made == command else f", by another command, python {made}: remove '{folder}' to run it anew"


def table(summary: dict[str, Any], published: dict[str, dict[int, float]]) -> str:
    """A comparison as a Markdown table; the paper's number, where there is one, in brackets behind ours."""
    rows = summary["optimizers"]
    steps = sorted({int(step) for row in rows.values() for step in row["loss_at"]})
    metrics = list(dict.fromkeys(name for row in rows.values() for name in row["metrics"]))
    headings = ["optimizer", "lr", *(f"step {step}" for step in steps), "final ± s.e.", "steps to best baseline"]
    lines = ["| " + " | ".join([*headings, *(metric.replace("_", " ") for metric in metrics)]) + " |"]
    lines.append("|---" * (len(headings) + len(metrics)) + "|")
    for name, row in rows.items():
        paper = published.get(name, {})
        at = [number(row["loss_at"].get(str(s))) + (f" ({paper[s]:g})" if s in paper else "") for s in steps]
        reached = row["steps_to_best_baseline"]
        cells = [name, number(row["lr"], 2), *at, final(row)]
        cells += ["–" if reached is None else str(reached), *(number(row["metrics"].get(m)) for m in metrics)]
        lines.append("| " + " | ".join(cells) + " |")
    best = summary["best_baseline"]
    ratios = [
        f"{name} {number(row['relative_to_best_baseline'])} ± {number(row.get('relative_standard_error'), 1)}"
        for name, row in rows.items()
        if row["lr"] is None
    ]
    lines.append(f"\nMean over {summary['num_tasks']} fresh problems. Final loss × {best}'s: {', '.join(ratios)}.")
    return "\n".join(lines)


def number(value: float | None, digits: int = 3) -> str:
    """A few digits; a dash for what there is not, as a diverged loss."""
    return "–" if value is None else f"{value:.{digits}g}"


def overview(text: str, name: str, summary: dict[str, Any]) -> str:
    """Fill in the rows of docs/results.md that the mark `<!-- NAME: OPTIMIZER -->` in their first cell gives to a part:
    the optimizer's final loss, the best baseline's, and the ratio of the two."""
    rows = summary["optimizers"]
    best = f"{summary['best_baseline']} {final(rows[summary['best_baseline']])}"

    def filled(found: "re.Match[str]") -> str:
        row = rows[found["label"]]
        ratio = f"{number(row['relative_to_best_baseline'])} ± {number(row.get('relative_standard_error'), 1)}"
        return f"{found['first']}| {final(row)} | {best} | {ratio} |"

    return re.sub(rf"(?P<first>\|[^|\n]*<!-- {name}: (?P<label>[\w-]+) -->[^|\n]*)(?:\|[^|\n]*){{3}}\|", filled, text)


def final(row: dict[str, Any]) -> str:
    """A final loss with its standard error; a dash where it diverged."""
    return "–" if row["final_loss"] is None else f"{number(row['final_loss'])} ± {number(row['standard_error'], 1)}"


def write_results(out: Path) -> None:
    """Put what the finished parts have found into docs/results.md and docs/notebook/: each part's table between its
    marks, its rows of the overview, the figures that are shown there into docs/figures/, and where all of it comes from
    into docs/notebook/runs.json."""
    summaries = {name: out / name / "summary.json" for name in RUNS}
    found = {name: json.loads(file.read_text()) for name, file in summaries.items() if file.exists()}
    shown_somewhere = ""
    for page in [DOCS / "results.md", *sorted((DOCS / "notebook").glob("*.md"))]:
        text = page.read_text()
        for name, summary in found.items():
            body = table(summary, PUBLISHED.get(name, {}))
            between = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
            text = re.sub(between, lambda m, b=body: f"{m[1]}{b}\n{m[2]}", text, flags=re.S)
            text = overview(text, name, summary)
        page.write_text(text)
        shown_somewhere += text
    copy_figures(out, shown_somewhere)
    write_origins(out)


def write_origins(out: Path) -> None:
    """Write the origins of the finished parts into docs/notebook/runs.json; those of other parts stay there.

    A part of an older version, whose results do not tell their origin, loses its entry.
    """
    path = DOCS / "notebook/runs.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    for name in RUNS:
        jobs = [out / name / "summary.json", *sorted((out / name).glob("*/summary.json"))]
        if results := [json.loads(file.read_text()) for file in jobs if file.exists()]:
            known[name] = _origin([result.get("provenance") for result in results])
    kept = {name: known[name] for name in RUNS if known.get(name)}
    path.write_text(json.dumps(kept, indent=1) + "\n")


def _origin(jobs: list[dict[str, Any] | None]) -> dict[str, Any] | None:
    """Return the origin of a part from those of its jobs: all their commits, and the date of the last one.

    None stands where a job does not tell its own. The command of a sweep is that of the part, not that of a job.
    """
    told = [job for job in jobs if job]
    if len(told) < len(jobs):
        return None
    last = max(told, key=lambda job: job["date"])
    commits = ", ".join(dict.fromkeys(job["commit"] or f"version {job['version']}" for job in told))
    command = {"command": last["command"]} if len(told) == 1 else {}
    return {"commit": commits, "date": last["date"], **command}


def copy_figures(out: Path, text: str) -> None:
    """Copy the figures of the parts that the text shows."""
    for name in RUNS:
        for figure in ("curves", "panels", "proposals", "figure6"):
            drawn, shown = out / name / f"{figure}.png", f"{name}_{figure}.png"
            if drawn.exists() and f"figures/{shown})" in text:
                (DOCS / "figures").mkdir(exist_ok=True)
                shutil.copy(drawn, DOCS / "figures" / shown)


def main() -> None:
    """Run what is missing and can be run, then refresh the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "outputs/paper")
    parser.add_argument("--only", nargs="*", choices=RUNS, default=list(RUNS), metavar="PART", help=", ".join(RUNS))
    parser.add_argument("--shipped", action="store_true", help="train nothing: compare the package's own optimizers")
    for data in ("mnist", "cifar", "content", "style", "other-style", "style-2", "style-3", "styles", "features"):
        parser.add_argument(f"--{data}", type=lambda path: Path(path).resolve())
    arguments = vars(parser.parse_args())
    out = arguments["out"].resolve()
    given = {name: str(value) for name, value in arguments.items() if value is not None} | {"out": str(out)}
    possible = commands(arguments["shipped"])
    for name in RUNS:
        if name not in arguments["only"]:
            continue
        if name not in possible:
            print(f"{name}: left out, the package does not ship what it trains or compares")
            continue
        command = possible[name]
        missing = ["--" + key.replace("_", "-") for key in re.findall(r"{(\w+)}", command) if key not in given]
        if missing:
            print(f"{name}: left out, it needs {', '.join(missing)}")
            continue
        run(name, command.format(**given), out / name)
    write_results(out)


if __name__ == "__main__":
    main()
