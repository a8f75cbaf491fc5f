"""Shares by speed: a right answer, typical wrong ones (each with its own hint), and an empty one."""

from __future__ import annotations

from itertools import product

import pytest

from llmlab.check.splitting import ends, shares_by_speed
from llmlab.parallel.data import shares_by_speed as quickest


def right(n, speeds):
    shares = [n * v // sum(speeds) for v in speeds]
    while sum(shares) < n:
        i = min(range(len(speeds)), key=lambda i: (shares[i] + 1) / speeds[i])
        shares[i] += 1
    return shares


def right_but_ties_go_to_the_last(n, speeds):
    return right(n, speeds[::-1])[::-1]


def equal(n, speeds):
    return [n // len(speeds) + (i < n % len(speeds)) for i in range(len(speeds))]


WRONG = [
    (equal, "all wait for the slowest"),
    (lambda n, speeds: [n * v / sum(speeds) for v in speeds], "nobody can do part of an item"),
    (lambda n, speeds: [n * v // sum(speeds) for v in speeds], "lost in rounding"),
    (lambda n, speeds: [round(n / v / sum(1 / s for s in speeds)) for v in speeds], "the slow ones get more"),
    (lambda n, speeds: [n, *[0] * (len(speeds) - 1)], "rounded down; an item left over goes to"),
    (lambda n, speeds: n, "rounded down; an item left over goes to"),
]


@pytest.mark.parametrize("answer", [right, right_but_ties_go_to_the_last])
def test_any_shares_that_end_soonest_are_right(answer):
    assert shares_by_speed(answer), shares_by_speed(answer)


@pytest.mark.parametrize(("answer", "hint"), WRONG, ids=[hint for _, hint in WRONG])
def test_a_wrong_answer_is_wrong_and_its_hint_names_the_mistake(answer, hint):
    result = shares_by_speed(answer)
    assert not result
    assert hint in str(result).split("  hint ")[1], result


@pytest.mark.parametrize("answer", [None, ..., lambda n, speeds: None, lambda n, speeds: ...])
def test_an_empty_answer_is_met_kindly(answer):
    assert "nothing to check yet" in str(shares_by_speed(answer))


def test_no_other_shares_end_sooner():
    for n, speeds in ((7, [3, 2, 1]), (6, [5, 1, 1])):
        every = [shares for shares in product(range(n + 1), repeat=3) if sum(shares) == n]
        assert ends(quickest(n, speeds), speeds) == min(ends(shares, speeds) for shares in every)
