"""What mypy cannot say of the closed forms: that their signatures leave nothing open, and that no file needs itself."""

from __future__ import annotations

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

COST = Path(__file__).parents[2] / "llmlab" / "cost"
FILES = sorted(COST.rglob("*.py"))


def open_types(source: str) -> list[str]:
    """Functions whose signature says `Any`, anywhere in it, and fields of classes that do."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            arguments = [each.annotation for each in ast.walk(node.args) if isinstance(each, ast.arg)]
            found += [node.name for said in [*arguments, node.returns] if is_open(said)]
        elif isinstance(node, ast.ClassDef):
            fields = [each for each in node.body if isinstance(each, ast.AnnAssign)]
            found += [f"{node.name}.{ast.unparse(each.target)}" for each in fields if is_open(each.annotation)]
    return found


def is_open(annotation: ast.expr | None) -> bool:
    return annotation is not None and re.search(r"\bAny\b", ast.unparse(annotation)) is not None


def imports_of(source: str) -> set[str]:
    """Files of `llmlab.cost` that one of them imports: in functions and for types alone, too; `modes.zero` is one."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports are not read here"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    inside = {name.removeprefix("llmlab.cost.") for name in found if name.startswith("llmlab.cost.")}
    return inside & {file_name(file) for file in FILES}


def file_name(file: Path) -> str:
    return ".".join(file.relative_to(COST).with_suffix("").parts)


@pytest.mark.parametrize("file", FILES, ids=file_name)
def test_no_signature_of_a_closed_form_says_any(file):
    assert open_types(file.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source, found",
    [
        ("def f(x: Any) -> int: ...", ["f"]),
        ("def f(x: int) -> Any: ...", ["f"]),
        ("def f(x: 'Any') -> int: ...", ["f"]),
        ("def f(*, x: dict[str, typing.Any]) -> tuple[int, ...]: ...", ["f"]),
        ("def f(*xs: Any, **more: Any): ...", ["f", "f"]),
        ("class C:\n    x: Any = 0\n    def f(self) -> list[Any]: ...", ["C.x", "f"]),
        ("def f(x: Anything) -> None:\n    y: Any = x", []),
    ],
)
def test_a_signature_that_says_any_is_found(source, found):
    assert open_types(source) == found


def test_no_closed_form_needs_itself():
    TopologicalSorter({file_name(file): imports_of(file.read_text(encoding="utf-8")) for file in FILES}).prepare()


@pytest.mark.parametrize(
    "source",
    [
        "from llmlab.cost.stack import Stack",
        "from llmlab.cost import stack",
        "import llmlab.cost.stack",
        "def f():\n    from llmlab.cost.stack import Stack",
        "if TYPE_CHECKING:\n    from llmlab.cost.stack import Stack",
    ],
)
def test_a_circle_is_found_however_it_is_closed(source):
    assert imports_of(source) == {"stack"}
    graph = {file_name(file): imports_of(file.read_text(encoding="utf-8")) for file in FILES}
    graph["network"] |= imports_of(source)
    with pytest.raises(CycleError, match="nodes are in a cycle"):
        TopologicalSorter(graph).prepare()
