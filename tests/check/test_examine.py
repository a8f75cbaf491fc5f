"""What a check says about an answer, whatever the exercise."""

from __future__ import annotations

from llmlab import check


def test_a_wrong_answer_is_shown_as_one_short_block():
    result = check.data_parallel_scale(lambda world, gradient: world.all_reduce(gradient))
    assert repr(result).splitlines() == [
        "data_parallel_scale: not yet.",
        "  tried     2 ranks, rank 0",
        "  expected  [1.5, -3, 9]",
        "  got       [3, -6, 18]",
        "  hint      the sum, world.size times too long: the loss is a mean, so multiply by 1 / world.size.",
    ]


def test_the_first_rank_that_differs_is_named():
    result = check.data_parallel_scale(lambda world, g: world.all_reduce(g, "avg") + 1.0 * (world.rank == 1))
    assert "2 ranks, rank 1" in str(result)


def test_an_exception_in_the_answer_is_shown_with_its_rank_and_not_thrown():
    def planted(world, gradient):
        if world.rank == 1:
            raise KeyError("planted")
        return world.all_reduce(gradient) / world.size

    result = check.data_parallel_scale(planted)
    assert not result and "rank 1: KeyError: planted" in str(result)
    assert "ZeroDivisionError" in str(check.amdahl(lambda s, p: 1 / 0))


def test_what_is_not_a_function_is_refused_in_words():
    result = check.amdahl(3.5)
    assert not result and "wants a function, got 3.5" in str(result)


def test_a_result_of_another_shape_or_kind_is_wrong_and_not_an_error():
    assert not check.data_parallel_scale(lambda world, gradient: world.all_gather(gradient))
    assert not check.data_parallel_scale(lambda world, gradient: "a string")
    assert not check.split_evenly(lambda n, workers: 3)
    assert not check.ring_step(lambda world, chunks, step: chunks[:1])
