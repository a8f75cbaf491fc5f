"""The house's rules of imports, read from the source: they point down, and no two files import each other."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "llmlab"

LEVELS = [
    {"arguments", "model", "text", "optim", "comm", "hardware", "tracebacks"},
    {"training", "generation", "evaluate", "finite", "serving", "applications", "compressing", "interpreting"},
    {"parallel"},
    {"checkpoint", "agreeing", "cost", "measuring", "diagnosing", "profiles", "reporting", "gallery"},
    {"plot"},
    {"widgets", "check"},
    {"commands"},
    {"__init__", "__main__"},
]
STRANGERS = [{"model", "comm"}]  # neither imports the other, though they share a level


def level(part: str) -> int:
    """The level `part` lives on; ValueError for a part that was given none."""
    for number, parts in enumerate(LEVELS):
        if part in parts:
            return number
    raise ValueError(
        f"every part of llmlab has a level: add '{part}' to LEVELS, and to the README's map if it is public"
    )


def part_of(module: str) -> str:
    """`llmlab.comm.trace` -> `comm`; `llmlab` itself -> `__init__`."""
    return (module.split(".") + ["__init__"])[1]


def module_name(file: Path, package: Path) -> str:
    """Dotted name of a source file; a package's `__init__.py` has the package's name."""
    names = [package.name, *file.relative_to(package).with_suffix("").parts]
    return ".".join(names[:-1] if names[-1] == "__init__" else names)


def source_of(node: ast.ImportFrom, file: Path, package: Path) -> str:
    """Absolute name of what stands between `from` and `import`."""
    name = module_name(file, package)
    parents = name.split(".") if file.stem == "__init__" else name.split(".")[:-1]
    base = parents[: len(parents) - node.level + 1] if node.level else []
    return ".".join([*base, *([node.module] if node.module else [])])


def imported_modules(file: Path, package: Path) -> Iterator[tuple[int, str]]:
    """Line and absolute name of everything a file imports, at its top or inside a function, relative or not."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = source_of(node, file, package)
            # `from . import plot` and `from llmlab import plot` name a part only in what they import
            yield from ((node.lineno, f"{source}.{alias.name}") for alias in node.names)


def wrong_ways(package: Path) -> list[str]:
    """Every import that points up, or at a stranger: `file:line: comm imports model`."""
    found = []
    for file in sorted(package.rglob("*.py")):
        part = part_of(module_name(file, package))
        for line, module in imported_modules(file, package):
            if module.split(".")[0] != package.name:
                continue
            other = part_of(module)
            known = any(other in parts for parts in LEVELS)
            # `from llmlab import Config`: no part of that name, so the name came from the package's own __init__
            other = other if known or (package / other).exists() or (package / f"{other}.py").exists() else "__init__"
            if level(other) > level(part) or (part != other and {part, other} in STRANGERS):
                found.append(f"{file.relative_to(package)}:{line}: {part} imports {other}")
    return found


def hidden_modules(package: Path) -> list[str]:
    """Names that an `__init__.py` binds although a module beside it already has that name."""
    found = []
    for init in sorted(package.rglob("__init__.py")):
        beside = {path.stem for path in init.parent.iterdir() if path != init and path.suffix in ("", ".py")}
        for node in ast.parse(init.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom):
                itself = source_of(node, init, package) == module_name(init, package)  # the module, under its own name
                bound = {alias.asname or alias.name for alias in node.names if not itself}
            elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                bound = {node.name}
            elif isinstance(node, ast.Assign):
                bound = {target.id for target in node.targets if isinstance(target, ast.Name)}
            else:
                continue
            found += [
                f"{init.relative_to(package)}:{node.lineno}: {name}" for name in sorted(beside.intersection(bound))
            ]
    return found


def test_every_part_imports_its_own_level_or_a_lower_one() -> None:
    assert list(PACKAGE.rglob("*.py")), f"no source under {PACKAGE}"
    assert wrong_ways(PACKAGE) == []


def test_no_name_hides_the_module_beside_it() -> None:
    assert hidden_modules(PACKAGE) == []


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A package of the same name with one file per part, to break the rules in."""
    package = tmp_path / "llmlab"
    (package / "comm").mkdir(parents=True)
    for file in ("__init__.py", "model.py", "plot.py", "comm/__init__.py", "comm/trace.py"):
        (package / file).write_text("", encoding="utf-8")
    return package


@pytest.mark.parametrize(
    ("file", "source", "wrong"),
    [
        ("comm/trace.py", "from llmlab.plot import timeline", "comm imports plot"),
        ("comm/trace.py", "from llmlab import plot", "comm imports plot"),
        ("comm/trace.py", "import llmlab.plot", "comm imports plot"),
        ("comm/trace.py", "from ..plot import timeline", "comm imports plot"),
        ("comm/trace.py", "def draw():\n    from .. import plot", "comm imports plot"),
        ("comm/trace.py", "import llmlab", "comm imports __init__"),
        ("comm/trace.py", "from llmlab import Config", "comm imports __init__"),
        ("comm/__init__.py", "from ..model import Config", "comm imports model"),
        ("model.py", "from llmlab.comm import Group", "model imports comm"),
    ],
)
def test_an_import_that_points_up_is_found(house: Path, file: str, source: str, wrong: str) -> None:
    (house / file).write_text(source, encoding="utf-8")
    assert [line.split(": ")[1] for line in wrong_ways(house)] == [wrong]


def test_imports_that_point_down_pass(house: Path) -> None:
    (house / "plot.py").write_text("import torch\nfrom llmlab.comm.trace import Trace\nfrom .model import Config")
    (house / "comm/__init__.py").write_text(
        "from .trace import Trace\nfrom . import trace\nfrom llmlab.comm import trace"
    )
    assert wrong_ways(house) == []
    assert hidden_modules(house) == []


def test_a_part_without_a_level_is_refused(house: Path) -> None:
    (house / "sorcery.py").write_text("from llmlab import plot")
    with pytest.raises(ValueError, match="'sorcery'"):
        wrong_ways(house)


@pytest.mark.parametrize(
    "source", ["from .trace import trace", "from .trace import Trace as trace", "def trace(): ...", "trace = 1"]
)
def test_a_name_that_hides_a_module_is_found(house: Path, source: str) -> None:
    (house / "comm/__init__.py").write_text(source)
    assert hidden_modules(house) == ["comm/__init__.py:1: trace"]


# --- circles --------------------------------------------------------------------------------------------------------

# Collectives are written on Group, and Group runs them; a rank, what it posts, and its run know each other.
KNOWN = [
    {"comm.group", "comm.checks", "comm.collectives*"},
    {"comm.simulator", "comm.simulated.simulation", "comm.simulated.rank", "comm.simulated.matching",
     "comm.simulated.meeting", "comm.simulated.recorder", "comm.simulated.surroundings",
     "comm.simulated.torch_programs*"},
]  # fmt: skip


def modules_of(package: Path) -> dict[str, Path]:
    return {module_name(file, package): file for file in sorted(package.rglob("*.py"))}


def arrows(package: Path) -> dict[str, set[str]]:
    """For every module, the modules of this package whose code it names. A package's empty face imports nothing."""
    modules = modules_of(package)
    found: dict[str, set[str]] = {}
    for name, file in modules.items():
        targets = set()
        for _, imported in imported_modules(file, package):
            target = imported if imported in modules else imported.rpartition(".")[0]
            if target in modules and target != name:
                targets.add(target)
        found[name] = targets
    return found


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Tarjan 1972: the strongly connected components of more than one module."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[set[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph[node]):
            if other not in index:
                visit(other)
            if other in stack:
                low[node] = min(low[node], low[other])
        if low[node] == index[node]:
            component = set(stack[stack.index(node) :])
            del stack[stack.index(node) :]
            if len(component) > 1:
                found.append(component)

    for node in graph:
        if node not in index:
            visit(node)
    return found


def is_known(circle: set[str]) -> bool:
    names = {name.partition(".")[2] for name in circle}
    return any(all(any(matches(name, k) for k in known) for name in names) for known in KNOWN)


def matches(name: str, known: str) -> bool:
    return name.startswith(known[:-1]) if known.endswith("*") else name == known


def test_no_files_import_each_other() -> None:
    assert [sorted(circle) for circle in circles(arrows(PACKAGE)) if not is_known(circle)] == []


def test_a_circle_is_found_through_a_function_and_through_type_checking(tmp_path: Path) -> None:
    package = tmp_path / "llmlab"
    package.mkdir()
    for name, source in {
        "__init__": "",
        "a": "if TYPE_CHECKING:\n    from llmlab.b import B",
        "b": "def late():\n    from llmlab.c import C",
        "c": "import llmlab.a",
        "d": "from llmlab.a import A",
    }.items():
        (package / f"{name}.py").write_text(source)
    assert circles(arrows(package)) == [{"llmlab.a", "llmlab.b", "llmlab.c"}]
