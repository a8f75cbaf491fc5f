"""Exercises on experts: right answers, typical wrong ones (each with its own hint), and empty ones."""

from __future__ import annotations

import math

import pytest
import torch

from llmlab.check.expert import bias_step, exchange_bytes, expert_capacity, expert_gradient, kept_tokens
from llmlab.model.moe import by_expert


def counted(choice, capacity):
    kept, taken = [], {}
    for expert in choice:
        kept.append(taken.get(expert, 0) < capacity)
        taken[expert] = taken.get(expert, 0) + 1
    return kept


def reduced(world, gradient, routed):
    return gradient if routed else world.all_reduce(gradient)


RIGHT = [
    (expert_capacity, lambda n, k, e, factor: math.ceil(factor * n * k / e)),
    (kept_tokens, counted),
    (bias_step, lambda bias, load, rate: bias + rate * torch.sign(1 / len(load) - load)),
    (exchange_bytes, lambda n, k, d, w: 2 * n * k * d * w),
    (expert_gradient, reduced),
]
WRONG = [
    (expert_capacity, lambda n, k, e, factor: int(factor * n * k / e), "rounded down"),
    (expert_capacity, lambda n, k, e, factor: math.ceil(factor * n / e), "counts n_active times"),
    (expert_capacity, lambda n, k, e, factor: math.ceil(n * k / e), "the even share itself"),
    (expert_capacity, lambda n, k, e, factor: n, "factor * n_token"),
    (kept_tokens, lambda choice, capacity: counted(choice, capacity + 1), "one too many"),
    (kept_tokens, lambda choice, capacity: counted(choice[::-1], capacity)[::-1], "the later tokens"),
    (kept_tokens, lambda choice, capacity: [True] * len(choice), "nobody was dropped"),
    (kept_tokens, lambda choice, capacity: [not kept for kept in counted(choice, capacity)], "other way round"),
    (bias_step, lambda bias, load, rate: bias - rate * (load.mean() - load).sign(), "the wrong way"),
    (bias_step, lambda bias, load, rate: bias + rate * (load.mean() - load), "its sign alone"),
    (bias_step, lambda bias, load, rate: rate * (load.mean() - load).sign(), "the step alone"),
    (exchange_bytes, lambda n, k, d, w: n * k * d * w, "there only"),
    (exchange_bytes, lambda n, k, d, w: 2 * n * d * w, "once to each"),
    (exchange_bytes, lambda n, k, d, w: 4 * n * k * d * w, "asked is forward"),
    (expert_gradient, lambda world, gradient, routed: world.all_reduce(gradient), "to that of other experts"),
    (expert_gradient, lambda world, gradient, routed: gradient, "nothing was communicated"),
    (expert_gradient, lambda world, g, routed: g if routed else world.all_reduce(g, "avg"), "do not average"),
    (expert_gradient, lambda world, g, routed: world.all_reduce(g) if routed else g, "the other way round"),
]


@pytest.mark.parametrize(("check", "answer"), RIGHT)
def test_a_right_answer_is_right(check, answer):
    assert check(answer), check(answer)


@pytest.mark.parametrize(("check", "answer", "hint"), WRONG)
def test_a_wrong_answer_is_wrong_and_its_hint_names_the_mistake(check, answer, hint):
    result = check(answer)
    assert not result
    assert hint in str(result).split("  hint ")[1], result


@pytest.mark.parametrize(("check", "answer"), RIGHT)
def test_an_empty_answer_is_met_kindly(check, answer):
    for empty in (None, ..., lambda *inputs: None, lambda *inputs: ...):
        assert "nothing to check yet" in str(check(empty))


def test_those_kept_are_those_the_library_keeps():
    choice, n_expert = torch.randint(3, (20,)), 3
    order, sizes = by_expert(choice[:, None], n_expert, capacity_factor=0.6)  # 4 places each
    assert sorted(order.tolist()) == [i for i, kept in enumerate(counted(choice.tolist(), 4)) if kept]
    assert max(sizes) == 4
