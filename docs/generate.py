"""Write what the documentation repeats of the code: the index of public names, and lengths of files.

    python docs/generate.py

It writes docs/api.md, and the numbers of lines in the table of docs/how-it-works.md. `make docs` does the same. The
code is read and not imported, so that this takes no time.
"""

import ast
import functools
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
DOCS, SOURCE = ROOT / "docs", ROOT / "src"

SECTIONS: dict[str, tuple[str, list[str]]] = {  # module: what it is for, its names where it has no __all__
    "l2o": ("What most people need: `import l2o`.", []),
    "l2o.optimizees": ("What is optimized: problems f(θ), and views of them.", []),
    "l2o.optimizers": ("What optimizes: update rules, learned and hand-designed.", []),
    "l2o.meta_gradients": ("Estimators of the meta-gradient, and objectives.", []),
    "l2o.training.learner": ("Meta-training with Lightning.", ["MetaLearner"]),
    "l2o.training.families": ("What a learner is trained on.", ["Family", "Choices", "Drawn"]),
    "l2o.training.horizons": ("How many steps an episode has.", ["Fixed", "Uniform", "LogUniform", "Curriculum"]),
    "l2o.evaluation": ("How good an optimizer is.", []),
    "l2o.data": ("Data sets, texts and pictures.", []),
    "l2o.figures": ("Figures.", []),
}

HEAD = """# API

Every public name, with the names of its arguments and the first sentence of its docstring; `help(NAME)` shows the
rest. `python docs/generate.py` writes this page.
"""


class Definition(NamedTuple):
    """Name the place that defines a public name."""

    module: str
    node: ast.stmt
    text: str | None  # its docstring; of an assigned name, the text below it


def pages() -> dict[Path, str]:
    """Return the text that each generated page should have."""
    guide = DOCS / "how-it-works.md"
    return {DOCS / "api.md": api(), guide: counted(guide.read_text())}


def api() -> str:
    """Return the index of public names."""
    parts = [HEAD]
    for module, (purpose, names) in SECTIONS.items():
        rows = [entry(module, name) for name in sorted(names or exported(module), key=str.lower)]
        parts.append("\n".join([f"## `{module}`\n\n{purpose}\n\n| name | what it is |\n|---|---|", *rows]) + "\n")
    return "\n".join(parts)


def entry(module: str, name: str) -> str:
    """Return the row of one name, with a link to the file that defines it. ValueError where nothing explains it."""
    found = definition(module, name)
    if not found.text:
        raise ValueError(f"{found.module}.{name} has no docstring: write one")
    link = f"[`{name}`](../{file_of(found.module).relative_to(ROOT)})"
    listed = ", ".join(arguments(found))
    return f"| {link}{f' `({listed})`' if listed else ''} | {escaped(first_sentence(found.text))} |"


def file_of(module: str) -> Path:
    """Return a module's file."""
    path = SOURCE.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@functools.cache
def parsed(module: str) -> ast.Module:
    """Return a module's syntax tree."""
    return ast.parse(file_of(module).read_text())


def exported(module: str) -> list[str]:
    """Return a module's `__all__`."""
    for node in parsed(module).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return ast.literal_eval(node.value)
    raise ValueError(f"{module} has no __all__: name what is public in docs/generate.py")


def definition(module: str, name: str) -> Definition:
    """Find where a name is defined, from a module that defines or imports it."""
    body = parsed(module).body
    for node, after in pairwise([*body, ast.Pass()]):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return Definition(module, node, ast.get_docstring(node))
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == name:
            noted = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            return Definition(module, node, str(after.value.value) if noted else None)
    for source, original in imports(module, name):
        return definition(source, original)
    raise ValueError(f"{module} has no {name}")


def imports(module: str, name: str) -> Iterator[tuple[str, str]]:
    """Yield the module of this package that a name is imported from, and its name there."""
    for node in ast.walk(parsed(module)):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("l2o"):
            yield from ((str(node.module), alias.name) for alias in node.names if name == (alias.asname or alias.name))


def arguments(found: Definition) -> list[str]:
    """Return the names of the arguments of a function or of a class's constructor, which may be an inherited one."""
    if isinstance(found.node, ast.FunctionDef):
        given = found.node.args
        return [argument.arg for argument in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    if not isinstance(found.node, ast.ClassDef):
        return []
    for node in found.node.body:
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            return arguments(found._replace(node=node))[1:]
    bases = [ast.unparse(base) for base in found.node.bases]
    if "NamedTuple" in bases or any("dataclass" in ast.unparse(one) for one in found.node.decorator_list):
        return [str(getattr(node.target, "id", "")) for node in found.node.body if isinstance(node, ast.AnnAssign)]
    for base in bases:
        try:
            return arguments(definition(found.module, base))
        except ValueError:  # a class of another package
            continue
    return []


def first_sentence(text: str) -> str:
    """Return the first sentence of a text, which ends before a capital letter, at a blank line, or at the end."""
    paragraph = " ".join(text.split("\n\n")[0].split())
    return re.split(r"(?<=[.!?]) (?=[A-Z`])", paragraph)[0].rstrip(":")


def escaped(text: str) -> str:
    """Return a text as a cell of a Markdown table shows it: no bar ends the cell, and no star begins italics."""
    parts = re.split(r"(`[^`]*`)", text)  # inline code stands at odd places
    return "".join(re.sub(r"[|]" if at % 2 else r"[|*<]", r"\\\g<0>", part) for at, part in enumerate(parts))


def counted(text: str) -> str:
    """Put the true number of lines behind each file in a table: `| [file](../path) | LINES |`."""
    count = lambda path: len((ROOT / path).read_text().splitlines())  # noqa: E731
    return re.sub(r"(\]\(\.\./(src/[\w/]+\.py)\) \| )\d+( \|)", lambda m: f"{m[1]}{count(m[2])}{m[3]}", text)


if __name__ == "__main__":
    for page, text in pages().items():
        page.write_text(text)
        print(page.relative_to(ROOT))
