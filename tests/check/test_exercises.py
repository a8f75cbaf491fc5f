"""Every exercise: right answers are accepted, wrong ones refused with their hint, empty ones met kindly.

The answers stand in `answers/`, a module for each of `llmlab/check`.
"""

from __future__ import annotations

from collections import Counter
from importlib import import_module
from pathlib import Path

import pytest

from llmlab import check

ANSWERS = sorted((Path(__file__).parent / "answers").glob("*.py"))
TOPICS = [import_module(f"tests.check.answers.{path.stem}") for path in ANSWERS]
RIGHT = [case for topic in TOPICS for case in topic.RIGHT]
WRONG = [case for topic in TOPICS for case in topic.WRONG]
CHECKS = {exercise.__name__: exercise for exercise, _ in RIGHT}
NO_FUNCTION = {"seventh_cause", "seventh_split"}  # these ask for a name and for numbers: test_timeline_checks.py


def not_implemented(*inputs):
    raise NotImplementedError


EMPTY = {
    "None": None,
    "...": ...,
    "returns None": lambda *inputs: None,
    "returns ...": lambda *inputs: ...,
    "not implemented": not_implemented,
}


def test_every_check_has_a_right_answer_and_three_wrong_ones():
    wrong = Counter(exercise.__name__ for exercise, _, _ in WRONG)
    offered = set(check.__all__) - {"Result"} - NO_FUNCTION
    assert sorted(name for name in offered | CHECKS.keys() if name not in CHECKS or wrong[name] < 3) == []


@pytest.mark.parametrize(("exercise", "answer"), RIGHT, ids=[exercise.__name__ for exercise, _ in RIGHT])
def test_a_right_answer_is_right(exercise, answer):
    result = exercise(answer)
    assert result.right and str(result).startswith(f"{exercise.__name__}: right. Tried with "), result


@pytest.mark.parametrize(
    ("exercise", "answer", "hint"), WRONG, ids=[f"{exercise.__name__}-{hint}" for exercise, _, hint in WRONG]
)
def test_a_wrong_answer_is_wrong_and_its_hint_names_the_mistake(exercise, answer, hint):
    result = exercise(answer)
    assert not result and hint in str(result).split("  got ")[1], result  # "got" shows an exception, then the hint


@pytest.mark.parametrize("answer", EMPTY.values(), ids=EMPTY)
@pytest.mark.parametrize("exercise", CHECKS.values(), ids=CHECKS)
def test_an_empty_answer_is_met_kindly(exercise, answer):
    result = exercise(answer)
    assert not result and "nothing to check yet" in str(result), result
