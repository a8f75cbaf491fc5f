"""Every exercise: right answers are accepted, wrong ones refused with their hint, empty ones met kindly.

The answers stand in `answers/`, a module for each of `llmlab/check`.
"""

from __future__ import annotations

from collections import Counter
from importlib import import_module
from pathlib import Path

import pytest
import torch

from llmlab import check
from llmlab.check.hints import LATER
from llmlab.parallel.layout import Layout

ANSWERS = sorted((Path(__file__).parent / "answers").glob("*.py"))
TOPICS = [import_module(f"tests.check.answers.{path.stem}") for path in ANSWERS]
RIGHT = [case for topic in TOPICS for case in topic.RIGHT]
WRONG = [case for topic in TOPICS for case in topic.WRONG]
CHECKS = {exercise.__name__: exercise for exercise, _ in RIGHT}
NO_EXERCISES = {"CAUSES", "Result", "laid_out", "refuted", "ward"}
VALUES = {  # what is no function: a right value, wrong ones
    "bent_valley": (
        ("Adam", 0.5),
        [("gradient descent", 0.001), ("momentum", 1.0), ["RMSprop", 0.01], ("Adam", 0.001)],
    ),
    "eight_ranks": (Layout(dp=8, zero=3), [Layout(dp=2, tp=4), Layout(dp=4, tp=2), Layout(dp=1, tp=8)]),
    "gpus_in_time": (4096, [512, 1024, 2048]),
    "seventh_cause": ("uneven stages", ["bubble", "slow rank", "gradients"]),
    "seventh_split": ((4, 4, 1), [(3, 3, 3), [4, 3, 2], (1, 1, 7)]),
    "third_layout": (Layout(dp=4, zero=3), [Layout(tp=2, dp=2), Layout(dp=4), Layout(pp=4)]),
}


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
    wrong.update({name: len(values) for name, (_, values) in VALUES.items()})
    offered = set(check.__all__) - NO_EXERCISES
    assert len(offered) >= 100 and offered == CHECKS.keys() | VALUES.keys()
    assert [name for name in sorted(offered) if wrong[name] < 3] == []


def test_what_is_right_for_too_many_bytes_is_wrong():
    """Where a collective gives the same numbers for less; `sharded_step` and the like refuse an operation instead."""
    dear = {exercise for exercise, _, hint in WRONG if hint == "dearer than it need be"}
    assert dear == {
        check.data_parallel_scale,
        check.unequal_batches,
        check.vocabulary_loss,
        check.gain_gradient,
        check.federated_average,
        check.expert_gradient,
    }


@pytest.mark.parametrize("name", VALUES)
def test_a_value_that_was_found_is_judged(name):
    exercise, (right, wrong) = getattr(check, name), VALUES[name]
    assert "nothing to check yet" in str(exercise(...)) and "nothing to check yet" in str(exercise(None))
    for value in wrong:
        first, second = exercise(value), exercise(value)
        assert not first and LATER in str(first) and "  look      " in str(first), first
        assert not second and str(second).split("  hint ")[1].strip() not in str(first), second
        assert exercise(right), exercise(right)


@pytest.mark.parametrize(("exercise", "answer"), RIGHT, ids=[exercise.__name__ for exercise, _ in RIGHT])
def test_a_right_answer_is_right(exercise, answer):
    result = exercise(answer)
    assert result.right and str(result).startswith(f"{exercise.__name__}: right. Tried with "), result


@pytest.mark.parametrize(
    ("exercise", "answer", "hint"), WRONG, ids=[f"{exercise.__name__}-{hint}" for exercise, _, hint in WRONG]
)
def test_a_wrong_answer_is_wrong_and_its_hint_names_the_mistake(exercise, answer, hint):
    first, second = exercise(answer), exercise(answer)
    assert not first and LATER in str(first) and "  look      " in str(first), first
    told = str(second).split("  got ")[1].replace(".\n  hint      ", ": ")  # "got" shows an exception; then both stages
    assert not second and hint in told, second
    assert str(second).split("  hint ")[1].strip() not in str(first)


@pytest.mark.parametrize("answer", EMPTY.values(), ids=EMPTY)
@pytest.mark.parametrize("exercise", CHECKS.values(), ids=CHECKS)
def test_an_empty_answer_is_met_kindly(exercise, answer):
    result = exercise(answer)
    assert not result and "nothing to check yet" in str(result), result


def exits(*inputs):
    raise SystemExit


NO_ANSWER = {
    "no argument": lambda: 1.0,
    "too many arguments": lambda a, b, c, d, e, f, g, h, i, j, k: 1.0,
    "a number": 3.5,
    "a name": "ring",
    "a list": [1, 2],
    "a class": dict,
}
BAD = {
    "a string": lambda *inputs: "1",
    "nan": lambda *inputs: float("nan"),
    "nans": lambda *inputs: torch.full((2, 2), float("nan")),
    "another shape": lambda *inputs: torch.zeros(7, 5, 3),
    "no numbers": lambda *inputs: [object()],
    "a complex number": lambda *inputs: 1 + 1j,
    "too large a number": lambda *inputs: 10**400,
    "a function": lambda *inputs: len,
    "a ragged list": lambda *inputs: [[1], [1, 2]],
}
RAISES = {"an exception": lambda *inputs: {}["nothing"], "an exit": exits}
OUR_WORDS = {"own_schedule"}  # it reads a text, and says itself what it does not understand


@pytest.mark.parametrize("answer", NO_ANSWER.values(), ids=NO_ANSWER)
def test_what_cannot_be_called_as_the_exercise_says_is_told_how_it_will_be_and_is_no_try(answer):
    for exercise in CHECKS.values():
        result = exercise(answer)
        assert not result and "not yet: the check wants a function of (" in str(result), result
        assert ", got " in str(result) and LATER not in str(result)


@pytest.mark.parametrize("answer", BAD.values(), ids=BAD)
def test_a_result_of_the_wrong_kind_is_compared_and_never_met_by_an_exception(answer):
    for name, exercise in CHECKS.items():
        result = exercise(answer)
        assert not result and LATER in str(result), result
        assert "Error" not in str(result) or name in OUR_WORDS, result


@pytest.mark.parametrize("answer", RAISES.values(), ids=RAISES)
def test_what_an_answer_raises_is_shown_with_its_line(answer):
    for exercise in CHECKS.values():
        first, second = exercise(answer), exercise(answer)
        assert not first and LATER in str(first) and "line " in str(first), first
        assert not second and LATER not in str(second), second


@pytest.mark.parametrize("answer", [3.5, "ring", [1, 2], [[1], [1, 2]], {}, len, 1j, 10**400, torch.zeros(2, 2)])
def test_a_value_of_the_wrong_kind_is_told_what_is_wanted(answer):
    for name in VALUES:
        result = getattr(check, name)(answer)
        assert not result and "not yet: " in str(result) and "; got " in str(result), result
