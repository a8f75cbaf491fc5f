"""Expert parallelism: right answers, and wrong ones with their hints."""

from __future__ import annotations

import math

import torch

from llmlab.check.expert import bias_step, exchange_bytes, expert_capacity, expert_gradient, kept_tokens


def counted(choice, capacity):
    kept, taken = [], {}
    for expert in choice:
        kept.append(taken.get(expert, 0) < capacity)
        taken[expert] = taken.get(expert, 0) + 1
    return kept


def reduced(world, gradient, routed):
    return gradient if routed else world.all_reduce(gradient)


def all_reduced(world, gradient, routed):
    total = world.all_reduce(gradient.clone())
    return gradient if routed else total


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
    (expert_gradient, all_reduced, "dearer than it need be"),
]
