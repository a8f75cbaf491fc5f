"""Exercises on layouts: a right answer, typical wrong ones (each with its own hint), and an empty one."""

from __future__ import annotations

import pytest

from llmlab.check.layouts import global_norm, gradient_ranks, world_size


def ranks(kind, dp, tp, pp, cp, ep):
    return {"matrix": dp * cp, "expert": dp * cp // ep, "norm": dp * cp * tp}[kind]


def norm(squares):
    return sum(s / n for rank in squares for s, n in rank) ** 0.5


RIGHT = [(world_size, lambda dp, tp, pp, cp, ep: dp * tp * pp * cp), (gradient_ranks, ranks), (global_norm, norm)]
WRONG = [
    (world_size, lambda dp, tp, pp, cp, ep: dp * tp * pp * cp * ep, "folds inside"),
    (world_size, lambda dp, tp, pp, cp, ep: dp * tp * pp, "takes ranks, too"),
    (world_size, lambda dp, tp, pp, cp, ep: dp + tp + pp + cp, "multiply"),
    (gradient_ranks, lambda kind, dp, tp, pp, cp, ep: dp * tp * pp * cp, "the whole world"),
    (gradient_ranks, lambda kind, dp, tp, pp, cp, ep: dp * cp, "its whole ep group already"),
    (gradient_ranks, lambda kind, dp, tp, pp, cp, ep: dp * cp * tp, "different slices"),
    (global_norm, lambda squares: sum(s for rank in squares for s, _ in rank) ** 0.5, "once for each of them"),
    (global_norm, lambda squares: norm(squares) ** 2, "the square of the norm"),
    (global_norm, lambda squares: norm(squares[:1]), "rank 0's share only"),
]


@pytest.mark.parametrize("check, answer", RIGHT, ids=[check.__name__ for check, _ in RIGHT])
def test_the_right_answer_passes(check, answer):
    assert check(answer), check(answer)


@pytest.mark.parametrize("check, answer, hint", WRONG, ids=[f"{check.__name__}: {hint}" for check, _, hint in WRONG])
def test_a_wrong_answer_is_told_its_mistake(check, answer, hint):
    result = check(answer)
    assert not result and hint in str(result)


@pytest.mark.parametrize("check", [check for check, _ in RIGHT], ids=lambda check: check.__name__)
def test_an_empty_answer_is_asked_for_one(check):
    assert "nothing to check yet" in str(check(lambda *args: None))
