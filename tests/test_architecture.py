"""The house: imports inside `src/l2o` go one way and in no circle, and its files are short enough to be read.

Imports inside functions count as those at the top of a file do: they say as well who knows whom. Only imports under
`if TYPE_CHECKING` do not count, because they never run.
"""

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"

FLOORS = (
    {"files", "seeds", "checks"},
    {"native"},
    {"data"},
    {"optimizees"},
    {"optimizers"},
    {"unroll", "replay"},
    {"meta_gradients", "evaluation"},
    {"figures", "deploy"},
    {"training"},
    {"runs"},
    {"l2o", "__main__"},  # the public names, and the commands
)
"""The parts of the package from the ground up. A part may import from the floors below its own, and from itself."""

FLOOR_OF = {part: floor for floor, parts in enumerate(FLOORS) for part in parts}

KERNEL_SOURCES = {"l2o.optimizers.kernels.lstm_triton_source"}
"""Modules that hold the source of a kernel, which does not become clearer by being cut."""


def name_of(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_for_types_alone(node: ast.AST) -> bool:
    """Whether a node is an `if TYPE_CHECKING:`."""
    if not isinstance(node, ast.If):
        return False
    test = node.test
    return (test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", None)) == "TYPE_CHECKING"


def imports_of(tree: ast.AST) -> Iterator[tuple[str, str | None]]:
    """Every (module, name) that a piece of code imports when it runs; the name is None for `import module`."""
    for node in ast.iter_child_nodes(tree):
        if is_for_types_alone(node):
            yield from imports_of(ast.Module(node.orelse, []))
        elif isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, "imports name the whole module"
            yield from ((node.module, alias.name) for alias in node.names)
        else:
            yield from imports_of(node)


def graph_of(root: Path) -> dict[str, set[str]]:
    """Every module of the package under `root`, with the modules of the package that it imports."""
    files = {name_of(path, root): path for path in root.glob("l2o/**/*.py")}
    graph: dict[str, set[str]] = {}
    for module, path in files.items():
        graph[module] = set()
        for imported, name in imports_of(ast.parse(path.read_text(encoding="utf-8"))):
            if imported.partition(".")[0] == "l2o":
                inner = f"{imported}.{name}"
                graph[module].add(inner if inner in files else imported)
    return graph


def part_of(module: str) -> str:
    """The folder, or the file beside the folders, that a module belongs to."""
    return module.split(".")[1] if "." in module else module


def upward(graph: Mapping[str, set[str]]) -> list[str]:
    """Every import that does not go to a lower floor or stay in its own part."""
    return [
        f"{module} imports {imported}"
        for module, found in sorted(graph.items())
        for imported in sorted(found)
        if part_of(module) != part_of(imported) and FLOOR_OF[part_of(module)] <= FLOOR_OF[part_of(imported)]
    ]


def circle(graph: Mapping[str, set[str]]) -> list[str]:
    """A circle of modules that import each other; empty where there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


GRAPH = graph_of(SOURCE)


def test_every_part_has_its_floor() -> None:
    assert {part_of(module) for module in GRAPH} == set(FLOOR_OF)


def test_imports_go_down() -> None:
    assert upward(GRAPH) == []


def test_no_modules_import_each_other() -> None:
    assert circle(GRAPH) == []


@pytest.mark.parametrize("module", sorted(set(GRAPH) - KERNEL_SOURCES))
def test_no_file_is_too_long(module: str) -> None:
    path = SOURCE / module.replace(".", "/")
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 200


# ------------------------------------------------------------------------------------------ what these tests would see


def package(folder: Path, files: Mapping[str, str]) -> dict[str, set[str]]:
    for name, text in files.items():
        path = folder / "l2o" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return graph_of(folder)


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("from l2o.runs.ranks import as_one", ["l2o.data.npz imports l2o.runs.ranks"]),
        ("from l2o.runs import ranks", ["l2o.data.npz imports l2o.runs.ranks"]),
        ("import l2o.runs.ranks", ["l2o.data.npz imports l2o.runs.ranks"]),
        ("import l2o", ["l2o.data.npz imports l2o"]),
        ("def f():\n    if True:\n        from l2o import runs", ["l2o.data.npz imports l2o.runs"]),
        ("class A:\n    from l2o.runs import ranks", ["l2o.data.npz imports l2o.runs.ranks"]),
        ("if TYPE_CHECKING:\n    from l2o.runs import ranks", []),
        ("if typing.TYPE_CHECKING:\n    from l2o.runs import ranks", []),
        ("if TYPE_CHECKING:\n    pass\nelse:\n    from l2o import runs", ["l2o.data.npz imports l2o.runs"]),
        ("if TYPE:\n    from l2o.runs import ranks", ["l2o.data.npz imports l2o.runs.ranks"]),
        ("from l2o.files import replacing\nimport numpy", []),
    ],
)
def test_an_import_that_goes_up_is_found(tmp_path: Path, code: str, found: list[str]) -> None:
    files = {"__init__.py": "", "files.py": "", "runs/__init__.py": "", "runs/ranks.py": "", "data/npz.py": code}
    assert upward(package(tmp_path, files)) == found


def test_neighbours_on_one_floor_do_not_import_each_other(tmp_path: Path) -> None:
    graph = package(tmp_path, {"figures/draw.py": "from l2o.deploy import hub", "deploy/hub.py": ""})
    assert upward(graph) == ["l2o.figures.draw imports l2o.deploy.hub"]


def test_a_circle_is_found(tmp_path: Path) -> None:
    files = {"data/a.py": "def f():\n    from l2o.data import b", "data/b.py": "from l2o.data.a import f"}
    assert set(circle(package(tmp_path, files))) == {"l2o.data.a", "l2o.data.b"}
