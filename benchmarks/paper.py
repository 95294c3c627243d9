"""Run every experiment of the paper, then write the tables and figures of docs/results.md and the notebook.

Finished parts are not run again, and an interrupted training goes on from its checkpoint. A part whose data is not
given is left out. All of it takes many hours on a CPU; with --workers, parts that do not need each other are run at the
same time. With --shipped nothing is trained: the trained optimizers of the package are compared with the baselines,
which takes some hours, and what the package does not ship is left out. Which commit made which table, when, and by
which command is written into docs/notebook/runs.json.

The neural art of many styles is trained with the photographs as styles that --content gives for training; --styles
gives other pictures.

    python benchmarks/paper.py --mnist mnist.npz --cifar cifar10.npz --content photographs --style wave.jpg \
        --other-style scream.jpg --style-2 udnie.jpg --style-3 shipwreck.jpg --features squeezenet1_1.pth --workers 2
    python benchmarks/paper.py --only quadratic digits
    python benchmarks/paper.py --shipped --only mnist mnist_200steps --mnist mnist.npz
"""

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import nullcontext
from pathlib import Path
from typing import IO, Any

from omegaconf import OmegaConf
from paper_pages import write_results

from l2o.data import images
from l2o.files import locked, write_text

ROOT = Path(__file__).parents[1]
RUNNING: set[subprocess.Popen[bytes]] = set()
STOPPED = threading.Event()

MNIST, CIFAR = "dataset=npz dataset.path={mnist}", "dataset=npz dataset.path={cifar}"
LEARNED = "learned.LSTM={out}/RULES/0/best +learned.GAC={out}/RULES/1/best +learned.NTM-BFGS={out}/RULES/2/best"
ART = "optimizee.content={content} optimizee.style={style} optimizee.weights={features}"
START = "optimizer=pretrained optimizer.name={out}/cifar_small_training/best seed=1"
AT_200 = "evaluation.num_tasks=8 evaluation.tuning_tasks=4 evaluation.num_steps=200 evaluation.table_steps=[50,100,200]"
AT_1000 = "evaluation.num_tasks=2"  # seven rates, tuned for all 1000 steps on one problem
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
        f"{name}_1000steps": f"evaluate.py experiment={name} name={name}_1000steps {CIFAR} {AT_1000} {learned}"
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


def run(name: str, part: str, given: dict[str, str], log: Path | None = None, threads: int | None = None) -> None:
    """Run a part, unless it is done; a training resumes from its last checkpoint. A sweep's runs lie in subfolders.

    The file run.json tells the command, with the names of the data files, and the seconds that it took since it was
    last started. A part that another command has made is not run again either, and a line says so. What the part prints
    goes to the file `log`, if one is given. Raises subprocess.CalledProcessError where the part fails.
    """
    folder, command = Path(given["out"]) / name, part.format(**given)
    told = part.format(**{key: Path(value).name for key, value in given.items()} | {"out": "{out}"})
    sweep = " -m " in command or " figure=" in command
    compares = not sweep and "evaluation=null" not in command
    if (folder / ("summary.json" if compares else "run.json")).exists():
        return print(f"{name}: done before{_otherwise(folder, told)}", flush=True)
    resume = ["ckpt_path=auto"] if command.startswith("train.py") else []
    started = time.monotonic()
    print(f"{name}: python {command}" + (f" > {log}" if log else ""), flush=True)
    lines = [[*shlex.split(command), *resume, f"hydra.{'sweep' if sweep else 'run'}.dir={folder}"]]
    if " figure=" in command:
        lines.append(["-m", "l2o", "figure6", str(folder)])
    environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    with nullcontext() if log is None else log.open("a") as stream:
        for words in lines:
            execute(words, environment, stream)
    seconds = time.monotonic() - started
    write_text(folder / "run.json", json.dumps({"command": told, "seconds": seconds}) + "\n")
    return print(f"{name}: done in {seconds / 60:.1f} minutes", flush=True)


def execute(words: list[str], environment: dict[str, str], stream: IO[str] | None) -> None:
    """Run Python with some words, where `stop` finds it. Raises subprocess.CalledProcessError where it fails."""
    command = [sys.executable, *words]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=stream, stderr=stream) as process:
        RUNNING.add(process)
        if STOPPED.is_set():  # while this process was started
            process.terminate()
        status = process.wait()
        RUNNING.discard(process)
    if status:
        raise subprocess.CalledProcessError(status, command)


def stop(*_: Any) -> None:
    """Ask what is running to end, so that its trainings write their checkpoints, and start nothing more.

    A terminal sends Ctrl-C to the parts by itself, somebody else to this process alone. So that no part takes one
    Ctrl-C for two, it is handed on as SIGTERM.
    """
    STOPPED.set()
    for process in [*RUNNING]:
        process.terminate()
    sys.exit("stopped; the same command goes on")


def _otherwise(folder: Path, command: str) -> str:
    """Return what to say of a part that is done, where another command than today's has made it."""
    path = folder / "run.json"
    made = json.loads(path.read_text())["command"] if path.exists() else command
    return "" if made == command else f", by another command, python {made}: remove '{folder}' to run it anew"


def run_all(parts: dict[str, str], given: dict[str, str], workers: int) -> list[str]:
    """Run parts, `workers` at a time and in their order, each after those whose folders it reads.

    The cores are divided among the workers, and with several of them each part prints to the file NAME.log. Returns the
    names of the parts that have failed, and of those that needed one of them and so were not run.
    """
    out, waiting, failed = Path(given["out"]), dict(parts), list[str]()
    workers = max(1, min(workers, len(parts)))
    threads = max(1, (os.cpu_count() or 1) // workers) if workers > 1 else None
    running: dict[Future[None], str] = {}
    out.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(workers) as pool:
        while waiting or running:
            for name, needed in [(name, needs(command)) for name, command in waiting.items()]:
                if needed & {*failed}:
                    print(f"{name}: not run, {', '.join(sorted(needed & {*failed}))} failed", flush=True)
                    failed.append(name)
                elif len(running) == workers or needed & {*waiting, *running.values()}:
                    continue
                else:
                    log = out / f"{name}.log" if workers > 1 else None
                    job = pool.submit(run, name, parts[name], given, log, threads)
                    running[job] = name
                del waiting[name]
            for job in wait(running, return_when=FIRST_COMPLETED).done:
                name = running.pop(job)
                try:
                    job.result()
                except (subprocess.CalledProcessError, OSError) as error:
                    print(f"{name}: failed, {error}", flush=True)
                    failed.append(name)
    return failed


def needs(command: str) -> set[str]:
    """Return the parts whose folders a command reads."""
    return {*re.findall(r"{out}/(\w+)/", command)}


def training_photographs(content: str, folder: Path) -> Path:
    """Copy the photographs of `content` that neural art trains on into a folder, unless they are there; return it.

    Raises ValueError where there are too few of them, and OSError where they cannot be copied.
    """
    art, files = OmegaConf.load(ROOT / "conf/optimizee/neural_art.yaml"), images.files_of(content)
    split = images.split(len(files), art.validation, art.test, art.split_seed)
    wanted = {files[number].name: files[number] for number in split["train"]}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.with_name(f".{folder.name}.lock")):
        if not folder.exists() or {file.name for file in folder.iterdir()} != wanted.keys():
            part = folder.with_name(f"{folder.name}.part")
            for old in (part, folder):
                shutil.rmtree(old, ignore_errors=True)
            part.mkdir()
            for file in wanted.values():
                shutil.copy(file, part)
            part.rename(folder)
    return folder


def main() -> None:
    """Run what is missing and can be run, then refresh the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "outputs/paper")
    parser.add_argument("--only", nargs="*", choices=RUNS, default=list(RUNS), metavar="PART", help=", ".join(RUNS))
    parser.add_argument("--shipped", action="store_true", help="train nothing: compare the package's own optimizers")
    parser.add_argument(
        "--workers", type=int, default=1, metavar="N", help="run N parts at a time, which share the cores"
    )
    for data in ("mnist", "cifar", "content", "style", "other-style", "style-2", "style-3", "styles", "features"):
        parser.add_argument(f"--{data}", type=lambda path: Path(path).resolve())
    arguments = vars(parser.parse_args())
    if arguments["workers"] < 1:
        parser.error(f"--workers={arguments['workers']}: give 1 or more")
    out = arguments["out"].resolve()
    given = {name: str(value) for name, value in arguments.items() if value is not None} | {"out": str(out)}
    wanted = {name: RUNS[name] for name in RUNS if name in arguments["only"]}
    possible = commands(arguments["shipped"])
    parts: dict[str, str] = {}
    copied = {"styles"} if "content" in given else set[str]()
    for name in wanted:
        missing = sorted({*re.findall(r"{(\w+)}", possible.get(name, ""))} - given.keys() - copied)
        if name not in possible:
            print(f"{name}: left out, the package does not ship what it trains or compares")
        elif missing:
            print(f"{name}: left out, it needs {', '.join('--' + key.replace('_', '-') for key in missing)}")
        else:
            parts[name] = possible[name]
    if "styles" not in given and any("{styles}" in command for command in parts.values()):
        try:
            given["styles"] = str(training_photographs(given["content"], out / "styles"))
        except (ValueError, OSError) as error:
            parser.error(f"--content={given['content']}: {error}")
    signals = [n for n in (signal.SIGTERM, signal.SIGINT) if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in signals}
    try:
        failed = run_all(parts, given, arguments["workers"])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    write_results(RUNS, out)
    if failed:
        sys.exit(f"not complete: {', '.join(failed)}; the same command goes on")


if __name__ == "__main__":
    main()
