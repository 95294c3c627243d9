"""Write what benchmarks/paper.py has found into docs/results.md and docs/notebook/: tables, figures and origins."""

import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1] / "docs"

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


def write_results(names: Iterable[str], out: Path) -> None:
    """Put what those of the named parts that are finished have found into docs/results.md and docs/notebook/.

    That is each part's table between its marks, its rows of the overview, the figures that are shown there into
    docs/figures/, and where all of it comes from into docs/notebook/runs.json. Summaries and trained optimizers are
    kept in docs/notebook/paper/.
    """
    names = list(names)
    summaries = {name: out / name / "summary.json" for name in names}
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
    copy_figures(names, out, shown_somewhere)
    write_origins(names, out)
    keep(names, out)


def write_origins(names: list[str], out: Path) -> None:
    """Write the origins of the finished parts into docs/notebook/runs.json; those of other parts stay there.

    A part of an older version, whose results do not tell their origin, loses its entry.
    """
    path = DOCS / "notebook/runs.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    for name in names:
        jobs = [out / name / "summary.json", *sorted((out / name).glob("*/summary.json"))]
        if results := [json.loads(file.read_text()) for file in jobs if file.exists()]:
            known[name] = _origin([result.get("provenance") for result in results])
    kept = {name: known[name] for name in names if known.get(name)}
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


def keep(names: list[str], out: Path) -> None:
    """Copy what is small of the finished parts, and of the jobs of sweeps, into docs/notebook/paper/.

    That is the part's command, the summaries, and the trained optimizers. In a folder `out` these make the part a
    finished one.
    """
    trained = ["best/config.json", "best/model.safetensors"]  # the card beside them is made of the first one
    of_a_job = ["summary.json", *trained]
    small = ["run.json", *of_a_job, *(f"*/{pattern}" for pattern in of_a_job)]
    for name in names:
        if (out / name / "run.json").exists():
            kept = DOCS / "notebook/paper" / name
            shutil.rmtree(kept, ignore_errors=True)
            for file in [file for pattern in small for file in (out / name).glob(pattern) if file.is_file()]:
                copy = kept / file.relative_to(out / name)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, copy)


def copy_figures(names: list[str], out: Path, text: str) -> None:
    """Copy the figures of the parts that the text shows."""
    for name in names:
        for figure in ("curves", "panels", "proposals", "figure6"):
            drawn, shown = out / name / f"{figure}.png", f"{name}_{figure}.png"
            if drawn.exists() and f"figures/{shown})" in text:
                (DOCS / "figures").mkdir(exist_ok=True)
                shutil.copy(drawn, DOCS / "figures" / shown)
