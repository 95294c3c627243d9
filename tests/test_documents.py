"""The pages of the documentation: links, files that they name, commands, and numbers that stand on two pages."""

import enum
import importlib
import inspect
import json
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paper_pages
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from programs import ROOT
from torch.testing import assert_close

from l2o import seeds
from l2o.__main__ import parser
from l2o.optimizees.checks import check
from l2o.runs.command_line.null_groups import leave_out_null_groups
from l2o.unroll import start_episode

DOCS = ROOT / "docs"
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "src/l2o/deploy/pretrained/README.md")),
    *sorted(DOCS.rglob("*.md")),
]
names = [str(page.relative_to(ROOT)) for page in PAGES]
every_page = pytest.mark.parametrize("page", PAGES, ids=names)
GENERATE: dict[str, Any] = runpy.run_path(str(DOCS / "generate.py"))
PAPER: dict[str, Any] = runpy.run_path(str(ROOT / "benchmarks/paper.py"))


def prose(text: str) -> str:
    """A page without its blocks of code and its inline code, in which nothing is a link."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^ *```.*?^ *```$", "", text, flags=re.S | re.M))


def links(text: str) -> list[str]:
    """The targets of a page's links and images, in Markdown and in HTML."""
    text = prose(text)
    return re.findall(r"\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)", text) + re.findall(r"(?:href|src)=\"([^\"]+)\"", text)


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them: lower case, hyphens for blanks, no punctuation."""
    found: dict[str, int] = {}
    kept = []
    for heading in re.findall(r"^#{1,6} +(.*?)\s*$", re.sub(r"^```.*?^```$", "", text, flags=re.S | re.M), re.M):
        shown = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        kept.append(f"{slug}-{found[slug]}" if slug in found else slug)
        found[slug] = found.get(slug, 0) + 1
    return set(kept)


def test_headings_get_the_anchors_that_github_gives_them() -> None:
    twins = "## What's new?\n## What's new?\n"
    text = f"# Layers × units (figure 6)\n## A `LearnedOptimizer`\n```sh\n# no heading\n```\n{twins}"
    assert anchors(text) == {"layers--units-figure-6", "a-learnedoptimizer", "whats-new", "whats-new-1"}
    assert links('[a](b.md#c) ![](d.png) `[no](link)`\n```\n[no](link)\n```\n<img src="e.png">') == [
        "b.md#c",
        "d.png",
        "e.png",
    ]


@every_page
def test_every_link_leads_somewhere(page: Path) -> None:
    """Each relative path exists, and each anchor is a heading's."""
    for link in links(page.read_text()):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_relative_to(ROOT) and target.exists(), f"{link}: there is no such file"
        assert not anchor or anchor in anchors(target.read_text()), f"{link}: there is no such heading"


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        here = (link.partition("#")[0] for link in links(page.read_text()) if not re.match(r"[a-z]+:", link))
        waiting += [(page.parent / path).resolve() for path in here if path]
    assert {page for page in PAGES if page.is_relative_to(DOCS)} <= reached


@every_page
def test_every_file_of_the_repository_that_a_page_names_is_there(page: Path) -> None:
    """Paths in inline code that begin with one of the repository's folders. A changelog tells of the past."""
    if page.name == "CHANGELOG.md":
        return
    folders = "src|tests|conf|docs|benchmarks|examples"
    for path in re.findall(rf"`((?:{folders})/[\w./-]+)`", page.read_text()):
        assert (ROOT / path).exists() or path in WRITTEN_BY_READERS or "NAME" in path, path


WRITTEN_BY_READERS = {"docs/scoreboard.md", "conf/experiment/my_mixture.yaml"}
"""Files that a page tells its reader to write, or to have written by a command."""


# ------------------------------------------------------------------------------------------------------------ commands


def commands(page: Path) -> Iterator[str]:
    """A page's commands in Python: lines of its sh blocks, with continuations and variables put in, and inline code."""
    text = page.read_text()
    for block in re.findall(r"```sh\n(.*?)```", text, re.S):
        variables = {}
        for line in block.replace("\\\n", " ").splitlines():
            if assigned := re.fullmatch(r'(\w+)="(.*)"', line):
                variables[assigned[1]] = assigned[2]
            for name, value in variables.items():
                line = line.replace(f"${name} ", f"{value} ")
            command = line.partition("  #")[0].strip()
            if command.startswith("python "):
                yield command
    yield from re.findall(r"`(python [^`]+)`", re.sub(r"```.*?```", "", text, flags=re.S))


def documented() -> list[str]:
    """All commands of all pages, without those that read files which a page tells its reader to write."""
    found = [command for page in PAGES for command in commands(page)]
    return list(dict.fromkeys(c for c in found if "--config-dir" not in c and " -cd " not in c and "…" not in c))


@pytest.mark.parametrize("command", [c for c in documented() if re.match(r"python (train|evaluate)\.py ", c)])
def test_every_documented_command_composes(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every group, option and key is one that there is. Of a sweep, the first of its values is taken."""
    _, script, *words = shlex.split(command)
    monkeypatch.setattr(sys, "argv", [script, *(word for word in words if not word.startswith("-"))])
    leave_out_null_groups(ROOT / "conf")
    overrides = []
    for given in OverridesParser.create().parse_overrides(sys.argv[1:]):
        if given.is_sweep_override() and not given.is_interval_sweep():
            key, _, _ = str(given.input_line).partition("=")
            overrides.append(f"{key}={next(iter(given.sweep_string_iterator()))}")
        elif not given.is_sweep_override():
            overrides.append(str(given.input_line))
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        assert "seed" in compose(script.removesuffix(".py"), overrides)


@pytest.mark.parametrize("command", [c for c in documented() if c.startswith("python -m l2o ")])
def test_every_documented_command_of_the_package_is_understood(command: str) -> None:
    words = shlex.split(command)[3:]
    if len(words) > 1 or words == ["list"]:
        assert hasattr(parser().parse_args(words), "run")
    else:  # a command that is named without its arguments
        with pytest.raises(SystemExit) as exit_:
            parser().parse_args([*words, "--help"])
        assert exit_.value.code == 0


@pytest.mark.parametrize("command", [c for c in documented() if re.match(r"python (?!-|train|evaluate)", c)])
def test_every_documented_script_is_there(command: str) -> None:
    script = shlex.split(command)[1]
    assert "/" not in script or (ROOT / script).exists()


# ----------------------------------------------------------------------------------------------- what repeats the code


def test_the_generated_pages_are_up_to_date() -> None:
    """docs/api.md repeats names and docstrings, docs/how-it-works.md the lengths of files: `make docs` writes them."""
    for page, text in GENERATE["pages"]().items():
        assert page.read_text() == text, f"{page.name} is out of date: run `make docs`"


@pytest.mark.parametrize("module", ["l2o", "l2o.optimizers", "l2o.meta_gradients", "l2o.data"])
def test_the_index_names_the_arguments_that_a_call_takes(module: str) -> None:
    """The index is made from the source alone: what it says of arguments is what Python says of the imported names."""
    section = (DOCS / "api.md").read_text().partition(f"## `{module}`")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| \[`(\w+)`\]\([^)]*\)(?: `\(([^`]*)\)`)? \|", section, re.M))
    loaded = importlib.import_module(module)
    assert rows.keys() == set(loaded.__all__)
    for name, listed in rows.items():
        value = getattr(loaded, name)
        if inspect.isfunction(value) or (inspect.isclass(value) and not issubclass(value, enum.Enum)):
            taken = inspect.signature(value).parameters.values()
            plain = [one.name for one in taken if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
            assert listed == ", ".join(plain), name


def test_a_cell_of_the_index_shows_its_text_as_it_is() -> None:
    """No bar ends the cell, no star begins italics, and a sentence ends at its own end."""
    shown = GENERATE["escaped"]("x_* (N, *shape) |x| `a*|b` <c>")
    assert shown == r"x_\* (N, \*shape) \|x\| `a*\|b` \<c>"
    sentences = "Give f\n(2016, equation 3). Then `more`.\n\nAnd more."
    assert GENERATE["first_sentence"](sentences) == "Give f (2016, equation 3)."


def test_the_classes_of_the_page_on_contributing_do_what_they_say(float64: None) -> None:
    """Twenty lines each at most. The losses of the rule on the problem, and the slope of their mean, are known."""
    examples = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.S)
    names: dict[str, Any] = {}
    for example in examples:
        assert len([line for line in example.partition("class ")[2].splitlines() if line.strip()]) <= 20
        exec(example, names)
    problem, rule = names["Bowls"](), names["LearnedRate"](0.05)
    check(problem, torch.device("cpu"))
    episode = start_episode(rule, problem, 2, seeds.generator(0), horizon=8)
    found = names["RandomDirection"](1e-6)(rule, problem, episode, 4, seeds.generator(1))
    rate, a, steps = torch.tensor(0.05), episode.task["a"], torch.arange(1, 5)[:, None]
    shrunk = 1 - 2 * a * rate  # θ_t = (1 − 2 a e^φ)^t θ_0
    start = a * episode.theta.square().sum(1)
    assert_close(found.losses, start * shrunk ** (2 * steps))
    slope = (start * 2 * steps * shrunk ** (2 * steps - 1) * -2 * a * rate).mean()
    epsilon = torch.randn((), generator=seeds.generator(1))
    assert_close(found.gradient[0], slope * epsilon**2, rtol=1e-4, atol=0)
    assert found.carry.step == 4 and not found.done


# ------------------------------------------------------------------------------------------------------------- results


ROWS = re.findall(
    r"^\|[^|\n]*<!-- (\w+): ([\w-]+) -->[^|\n]*\|([^|\n]*)\|([^|\n]*)\|([^|\n]*)\|",
    (DOCS / "results.md").read_text(),
    re.M,
)


def test_the_overview_has_a_row_for_every_learned_optimizer_of_the_paper() -> None:
    assert len(ROWS) >= 20 and {name for name, *_ in ROWS} <= PAPER["RUNS"].keys()


@pytest.mark.parametrize(("part", "label", "ours", "best", "ratio"), ROWS, ids=["-".join(row[:2]) for row in ROWS])
def test_the_overview_repeats_the_notebook(part: str, label: str, ours: str, best: str, ratio: str) -> None:
    """Final losses and ratio of a row are those of the full table, which stands on one page of the notebook."""
    texts = [page.read_text() for page in (DOCS / "notebook").glob("*.md")]
    (table,) = (found for text in texts for found in re.findall(rf"<!-- {part} -->\n(.*?)<!-- end -->", text, re.S))
    heading, _, *rows = (line.strip("| ").split(" | ") for line in table.split("\n\n")[0].splitlines())
    final = {row[0]: row[heading.index("final ± s.e.")] for row in rows}
    name, loss = best.strip().split(" ", 1)
    assert (ours.strip(), loss) == (final[label], final[name])
    assert f"Final loss × {name}'s" in table
    ratios = dict(found.split(" ", 1) for found in table.rsplit("'s: ", 1)[1].strip().rstrip(".").split(", "))
    assert ratio.strip().strip("*") == ratios[label]


@pytest.mark.parametrize("page", ["README.md", "docs/results.md"])
def test_numbers_with_an_error_are_those_of_the_notebook(page: str) -> None:
    """In the text as in the tables: `.256 ± .003` and `0.256 ± 0.003` are the same."""
    plain = lambda path: re.sub(r"(?<![\d.])\.(?=\d)", "0.", " ".join(path.read_text().split()))  # noqa: E731
    notebook = "".join(plain(path) for path in (DOCS / "notebook").glob("*.md"))
    found = re.findall(r"[\d.e+-]+ ± [\d.e+-]*\d", plain(ROOT / page))
    assert len(found) >= 3 and [number for number in found if number not in notebook] == []


def test_a_finished_part_fills_in_its_table_its_rows_and_its_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On pages of the test's own; what other parts have is left alone."""
    baseline = {"lr": 0.1, "loss_at": {"20": 2.0}, "final_loss": 0.5, "standard_error": 0.02, "metrics": {}}
    baseline |= {"steps_to_best_baseline": 20, "relative_to_best_baseline": 1.0, "relative_standard_error": 0.0}
    ours = baseline | {
        "lr": None,
        "final_loss": 0.25,
        "relative_to_best_baseline": 0.5,
        "relative_standard_error": 0.01,
    }
    summary = {"optimizers": {"LSTM": ours, "NAG": baseline}, "best_baseline": "NAG", "num_tasks": 8}
    (tmp_path / "out/digits").mkdir(parents=True)
    (tmp_path / "out/digits/summary.json").write_text(json.dumps(summary))
    (tmp_path / "out/digits/curves.png").write_bytes(b"a figure")
    (tmp_path / "docs/notebook").mkdir(parents=True)
    other = "| quadratics <!-- quadratic: LSTM --> | 1 | 2 | 3 | – | `x` |\n"
    row = "| [digits](d.md) <!-- digits: LSTM --> | 7 | NAG 8 | 9 | – | `make train` |\n"
    (tmp_path / "docs/results.md").write_text(other + row)
    page = "<!-- digits -->\nold\n<!-- end -->\n![](../figures/digits_curves.png)\n"
    (tmp_path / "docs/notebook/digits.md").write_text(page)
    monkeypatch.setattr(paper_pages, "DOCS", tmp_path / "docs")
    paper_pages.write_results(PAPER["RUNS"], tmp_path / "out")
    filled = "| [digits](d.md) <!-- digits: LSTM --> | 0.25 ± 0.02 | NAG 0.5 ± 0.02 | 0.5 ± 0.01 | – | `make train` |\n"
    assert (tmp_path / "docs/results.md").read_text() == other + filled
    written = (tmp_path / "docs/notebook/digits.md").read_text()
    assert "old" not in written and "Final loss × NAG's: LSTM 0.5 ± 0.01." in written
    assert (tmp_path / "docs/figures/digits_curves.png").read_bytes() == b"a figure"
