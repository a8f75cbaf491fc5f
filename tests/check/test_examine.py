"""What a check says about an answer, whatever the exercise."""

from __future__ import annotations

import math

import pytest
import torch

from llmlab import check
from llmlab.check.differences import difference, same
from llmlab.check.hints import LATER

CURE = "the loss is a mean, so multiply by 1 / world.size."


def summed(world, gradient):
    return world.all_reduce(gradient)


def test_the_first_wrong_answer_is_told_what_is_wrong_and_the_next_one_the_cure():
    block = [
        "data_parallel_scale: not yet.",
        "  tried     2 ranks, rank 0",
        "  expected  [1.5, -3, 9]",
        "  got       [3, -6, 18]",
        "  look      every number is 2 times what is wanted; the sum, world.size times too long.",
    ]
    assert repr(check.data_parallel_scale(summed)).splitlines() == [*block, f"  hint      {LATER}"]
    assert repr(check.data_parallel_scale(summed)).splitlines() == [*block, f"  hint      {CURE}"]
    assert repr(check.data_parallel_scale(summed)).splitlines() == [*block, f"  hint      {CURE}"]


def test_each_exercise_counts_its_own_wrong_answers_and_a_right_one_begins_again():
    check.data_parallel_scale(summed)
    assert LATER in str(check.amdahl(lambda s, p: 0.0))
    assert check.data_parallel_scale(lambda world, gradient: world.all_reduce(gradient, "avg"))
    assert LATER in str(check.data_parallel_scale(summed))
    assert LATER not in str(check.amdahl(lambda s, p: 0.0))


def test_an_empty_answer_and_what_is_no_function_are_no_tries():
    for answer in (..., None, 3.5, lambda world, gradient: ...):
        check.data_parallel_scale(answer)
    assert LATER in str(check.data_parallel_scale(summed))
    check.data_parallel_scale(...)
    assert CURE in str(check.data_parallel_scale(summed))


def test_the_first_rank_that_differs_is_named():
    result = check.data_parallel_scale(lambda world, g: world.all_reduce(g, "avg") + 1.0 * (world.rank == 1))
    assert "2 ranks, rank 1" in str(result)


def test_cases_that_are_right_are_counted():
    assert "right in 1 of the 4 cases" in str(check.microbatches_needed(lambda p, share: 9))  # as many as 4, 0.25 wants


def test_an_exception_in_the_answer_is_shown_with_its_rank_and_line_and_not_thrown():
    def planted(world, gradient):
        if world.rank == 1:
            raise KeyError("planted")
        return world.all_reduce(gradient) / world.size

    result = check.data_parallel_scale(planted)
    assert not result and "rank 1: KeyError: planted" in str(result)
    assert '`raise KeyError("planted")`' in str(result)
    assert "ZeroDivisionError" in str(check.amdahl(lambda s, p: 1 / 0))


def test_a_function_with_other_arguments_is_told_so():
    result = check.amdahl(lambda: 1)
    assert (
        not result
        and "not yet: the check wants a function of (serial, workers) and calls it in this order, got" in str(result)
    )
    assert "(world, x)" in str(result := check.exchange(lambda world: world)) and "got one of (world)" in str(result)
    assert check.amdahl(lambda s, p, more=0, **others: 1 / (s + (1 - s) / p))


def test_what_is_not_a_function_is_refused_in_words():
    result = check.amdahl(3.5)
    assert not result and "wants a function of (serial, workers), got 3.5. Give it the function itself" in str(result)
    assert "got the class dict" in str(check.amdahl(dict))


def test_a_result_of_another_shape_or_kind_is_wrong_and_not_an_error():
    assert not check.data_parallel_scale(lambda world, gradient: world.all_gather(gradient))
    assert not check.data_parallel_scale(lambda world, gradient: "a string")
    assert not check.split_evenly(lambda n, workers: 3)
    assert not check.ring_step(lambda world, chunks, step: chunks[:1])


def test_a_long_result_is_shown_in_part():
    assert max(map(len, str(check.amdahl(lambda s, p: list(range(1000)))).splitlines())) < 240


@pytest.mark.parametrize(
    ("got", "expected", "words"),
    [
        (None, 1.0, "nothing came back"),
        ("3", 3, "a str, where a number is wanted"),
        ({}, [3, 4], "a dict, where numbers are wanted"),
        (torch.tensor([1 + 0j]), [1.0], "a Tensor, where numbers are wanted"),
        ([1, 2, 3], [1, 2], "shape [3], where shape [2] is wanted"),
        ([1], 1, "shape [1], where a single number is wanted"),
        (math.nan, 1.0, "nan among the numbers"),
        ([math.inf, 1], [2.0, 1], "inf among the numbers"),
        (6.0, 2.0, "the answer is 3 times what is wanted"),
        ([2, 4], [1, 2], "every number is 2 times"),
        ([-0.1, -0.2], [0.1, 0.2], "right but for its sign"),
        ([0, 0], [1, 2], "every number is 0"),
        ([2, 1, 3], [1, 2, 3], "in another order, the first at [0]"),
        ([1, 2, 4], [1, 2, 3], "1 of 3 numbers are wrong, the first at [2]"),
        (1, 0, "too large"),
        ([[1, 2], [3, 5]], [[1, 2], [3, 4]], "in result [1]: 1 of 2 numbers are wrong"),
        ([[1]], [[1], [2]], "a list of 1, where 2 results are wanted"),
    ],
)
def test_a_difference_is_said_in_one_line(got, expected, words):
    assert not same(got, expected)
    assert words in difference(got, expected)
    assert "\n" not in difference(got, expected)


@pytest.mark.parametrize("got", [1 + 1j, "1", 10**400, [[1], [1, 2]], object(), {1: 1}, type])
def test_what_is_no_real_number_is_never_the_same(got):
    assert not same(got, 1.0)
