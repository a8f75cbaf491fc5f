"""Text that is already on every machine with Python: docstrings and the language reference, no download.

It changes with the version of Python or torch, so no exact figure about it is promised.
"""

from __future__ import annotations

import ast
import inspect
import os
import pydoc_data.topics
import re
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import torch

from llmlab.arguments import instance

from .checks import checked_documents, checked_list

SHORTEST = 40  # characters; a docstring below that says little
NO_CORPUS = ("test", "tests", "testing", "site-packages", "dist-packages", "__pycache__")

# A docstring: a quoted text alone at the start of a file, or after a line that ends the head of a def or class, or
# handed to torch's add_docstr. Looking for a pattern takes a tenth of the time of parsing every file.
DOCSTRING = re.compile(
    r"(?:\A(?:\s*\#[^\n]*\n|\s*\n)*"
    r"|:[ \t]*(?:\#[^\n]*)?\n[ \t]+"
    r"|add_docstr\(\s*[\w.]+,\s*)"
    r'([rRuU]?)"""(.*?)(?<!\\)"""',
    re.DOTALL,
)


def python_documents() -> list[str]:
    """Return the topics of Python's language reference, then the docstrings of its standard library."""
    topics = pydoc_data.topics.topics
    return [topics[name] for name in sorted(topics)] + docstrings(sysconfig.get_path("stdlib"), NO_CORPUS)


def torch_documents() -> list[str]:
    """Return torch's docstrings: three times as much text, with formulas and code in it."""
    return docstrings(Path(torch.__file__).parent, NO_CORPUS)


def docstrings(folder: str | Path, skip: Sequence[str] = ()) -> list[str]:
    """Return the docstrings of every Python file below a folder, in path order, each once.

    skip: names of folders to leave out.
    """
    instance("docstrings", "folder", folder, (str, Path))
    skip = checked_list("skip", skip, "[name]")
    found: dict[str, None] = {}  # a dict keeps the order in which they were first met
    for path, folders, files in os.walk(folder):
        folders[:] = sorted(set(folders).difference(skip))  # os.walk goes only where this list says
        for file in sorted(file for file in files if file.endswith(".py")):
            source = Path(path, file).read_text(encoding="utf-8", errors="replace")
            found.update(dict.fromkeys(_docstrings(source)))
    return list(found)


def summary_pairs(documents: Sequence[str]) -> list[tuple[str, str]]:
    """Return (body, first line) of the docstrings that have both, as PEP 257 asks: summaries written by hand."""
    parts = (document.partition("\n\n") for document in checked_documents(documents))
    return [
        (body.strip(), summary)
        for summary, _, body in parts
        if "\n" not in summary and 15 <= len(summary) <= 160 and len(body.strip()) >= 160
    ]


def _docstrings(source: str) -> list[str]:
    texts = (inspect.cleandoc(_unescape(prefix, body)) for prefix, body in DOCSTRING.findall(source))
    return [text for text in texts if len(text) > SHORTEST]


def _unescape(prefix: str, body: str) -> str:
    """Give the text that Python would see: a backslash sequence stands for its character, unless the string is raw."""
    if "\\" not in body or prefix in ("r", "R"):
        return body
    try:
        return ast.literal_eval(f'"""{body}"""')
    except (SyntaxError, ValueError):  # not a docstring after all
        return ""
