"""Docstrings found in files by their pattern."""

from __future__ import annotations

import ast
import json
from pathlib import Path

from llmlab.text.docstrings import docstrings, summary_pairs, torch_documents

LONG = "and then some words, to be longer than the shortest."


def write(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def test_modules_functions_and_classes_give_their_docstrings(tmp_path):
    write(
        tmp_path,
        "a.py",
        f'''#!/usr/bin/python
# a comment
"""Module, {LONG}"""

class A:  # why
    """Class, {LONG}"""

    async def f(
        self, x: int = 3
    ) -> int:
        r"""Raw \\d, {LONG}

            deeper
        end
        """
        text = """no docstring, {LONG}"""
        return text

    def g(self):
        """Escaped \\\\d and \\u4f60, {LONG}"""

    def h(self):
        """Too short."""

add_docstr(torch.abs, r"""
abs(input), {LONG}
""")
''',
    )
    assert docstrings(tmp_path) == [
        f"Module, {LONG}",
        f"Class, {LONG}",
        f"Raw \\d, {LONG}\n\n    deeper\nend",
        f"Escaped \\d and 你, {LONG}",
        f"abs(input), {LONG}",
    ]


def test_files_come_in_path_order_each_text_once_and_skipped_folders_not_at_all(tmp_path):
    for name in ("b/z.py", "b/a.py", "a.py", "tests/t.py", "b/tests/t.py", "c.txt"):
        write(tmp_path, name, f'"""{name}, {LONG}"""\n\ndef f():\n    """Shared, {LONG}"""\n')
    assert docstrings(tmp_path, skip=["tests"]) == [
        f"a.py, {LONG}",
        f"Shared, {LONG}",
        f"b/a.py, {LONG}",
        f"b/z.py, {LONG}",
    ]


def test_the_pattern_finds_what_pythons_own_parser_finds():
    folder = Path(json.__file__).parent
    parsed = set()
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                parsed.add(ast.get_docstring(node) or "")
    assert set(docstrings(folder)) == {text for text in parsed if len(text) > 40}


def test_torch_has_more_text_than_the_default_corpus():
    documents = torch_documents()
    assert sum(map(len, documents)) > 3_000_000
    assert any(text.startswith("abs(input") for text in documents)


def test_a_summary_is_a_first_line_of_its_own_above_a_longer_body():
    body = "A body that explains. " * 10
    assert summary_pairs([f"Do one thing well.\n\n{body}\n"]) == [(body.strip(), "Do one thing well.")]
    assert (
        summary_pairs([f"Two lines\nof summary.\n\n{body}", "Do one thing well.\n\nShort.", f"Short.\n\n{body}", body])
        == []
    )
