"""What mypy cannot say of the closed forms: that their signatures leave nothing open."""

from __future__ import annotations

import ast
import re
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
