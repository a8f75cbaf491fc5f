"""Pipeline exercises: the right answer passes, each typical mistake is told its cause."""

from __future__ import annotations

import math

import pytest

from llmlab.check import pipeline as check
from llmlab.parallel.schedules import make_schedule

RIGHT = {
    check.bubble_share: lambda p, m: (p - 1) / (m + p - 1),
    check.microbatches_needed: lambda p, share: math.ceil((p - 1) * (1 - share) / share - 1e-9) or 1,
    check.held_microbatches: lambda rank, p, m: min(p - rank, m),
    check.split_by_speed: lambda n, speeds: check.quickest_split(n, speeds),
    check.message_count: lambda p, m, v: 2 * (p * v - 1) * m,
    check.own_schedule: lambda p, m: str(make_schedule("zero_bubble", p, m)),
}
WRONG = [
    (check.bubble_share, lambda p, m: (p - 1) / m, "beside the work"),
    (check.bubble_share, lambda p, m: m / (m + p - 1), "in which it works"),
    (check.bubble_share, lambda p, m: 0.3, "waits for (p - 1)"),
    (check.microbatches_needed, lambda p, share: RIGHT[check.microbatches_needed](p, share) - 1, "round up"),
    (check.microbatches_needed, lambda p, share: math.ceil((p - 1) / share - 1e-9), "beside the work"),
    (check.held_microbatches, lambda rank, p, m: m, "that is GPipe"),
    (check.held_microbatches, lambda rank, p, m: min(rank + 1, m), "other way round"),
    (check.held_microbatches, lambda rank, p, m: p - rank, "cannot hold more than there are"),
    (check.split_by_speed, lambda n, speeds: [n // len(speeds) + (i < n % len(speeds)) for i in range(len(speeds))],
     "equal stages"),
    (check.split_by_speed, lambda n, speeds: [n * v / sum(speeds) for v in speeds], "whole numbers"),
    (check.split_by_speed, lambda n, speeds: "all", "in proportion"),
    (check.message_count, lambda p, m, v: (p * v - 1) * m, "forward only"),
    (check.message_count, lambda p, m, v: 2 * p * v * m, "borders"),
    (check.message_count, lambda p, m, v: 2 * (p - 1) * m, "v times as many"),
    (check.own_schedule, lambda p, m: str(check._with_weights(make_schedule("1f1b", p, m))), "that is 1F1B"),
    (check.own_schedule, lambda p, m: "B0 F0 W0", "does not run"),
    (check.own_schedule, lambda p, m: str(make_schedule("1f1b", p, m)), "each with F, B and W"),
]  # fmt: skip


@pytest.mark.parametrize("exercise", RIGHT, ids=lambda e: e.__name__)
def test_the_right_answer_passes_and_an_empty_one_is_no_mistake(exercise):
    assert exercise(RIGHT[exercise]), exercise(RIGHT[exercise])
    assert "nothing to check yet" in exercise(lambda *_: None).text
    assert not exercise(...)


@pytest.mark.parametrize(("exercise", "answer", "said"), WRONG)
def test_a_wrong_answer_is_told_its_cause(exercise, answer, said):
    result = exercise(answer)
    assert not result
    assert said in result.text


def test_all_weights_at_the_end_hold_too_much():
    def late(p, m):
        rows = make_schedule("1f1b", p, m).actions
        return "\n".join(" ".join([*map(str, row), *(f"W{i}@{r}" for i in range(m))]) for r, row in enumerate(rows))

    assert "holds all of them" in check.own_schedule(late).text


def test_the_quickest_split_gives_a_slow_rank_less():
    assert check.quickest_split(12, [2, 1, 1, 2]) == [4, 2, 2, 4]
    assert check.pace([4, 2, 2, 4], [2, 1, 1, 2]) == 2
