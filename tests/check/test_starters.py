"""The exercises of the notebooks: each has its check, and a starter that as it stands reveals nothing."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
import torch

import llmlab as lab

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
CALL = re.compile(r"^lab\.check\.(\w+)\((.*?)\)", re.MULTILINE)
OPEN: dict[str, set[str]] = {}  # exercises of a notebook without a check yet
TOOLS = {"CAUSES", "Result", "laid_out", "refuted", "ward"}


def cells(path):
    return nbformat.read(path, as_version=4).cells


def exercises(path):
    """The number of each exercise of a notebook, and the code from there to the next one."""
    found, behind = [], False
    for cell in cells(path):
        if cell.cell_type == "code":
            if behind and found:
                found[-1] = (found[-1][0], found[-1][1] + cell.source + "\n")
            continue
        _, heading, text = cell.source.rpartition("## Exercises\n")
        behind = behind or bool(heading)
        text, end, _ = f"\n{text}".partition("\n## ")
        found += [(number, "") for number in re.findall(r"^\*\*(\d+)\.\*\* ", text, re.MULTILINE) if behind]
        behind = behind and not end
    return found


STARTERS = [
    pytest.param(cell.source, id=f"{path.stem}-{CALL.search(cell.source)[1]}")
    for path in NOTEBOOKS
    for cell in cells(path)
    if cell.cell_type == "code" and (called := CALL.search(cell.source)) and called[1] not in TOOLS
]


def test_there_are_starters_and_exercises():
    assert len(STARTERS) > 80
    assert sum(len(exercises(path)) for path in NOTEBOOKS) > 80


@pytest.mark.parametrize("source", STARTERS)
def test_a_starter_as_it_stands_is_empty_and_reveals_nothing(source):
    *starter, call = source.rstrip().split("\n")
    names = {"lab": lab, "torch": torch}
    exec("\n".join(starter), names)
    result = eval(call, names)
    assert not result and result.text.startswith("nothing to check yet"), result


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_exercise_has_its_check(path):
    unchecked = {number for number, code in exercises(path) if not CALL.search(code)}
    assert unchecked <= OPEN.get(path.stem, set())
