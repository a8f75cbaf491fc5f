"""Exercises of notebook 27: who gets a token, who is dropped, what travels, and whose gradient is complete."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from llmlab.check.examine import Case, Result, examine, on_ranks
from llmlab.comm.group import Group


def expert_capacity(answer: Callable[..., Any]) -> Result:
    """`answer(n_token, n_active, n_expert, factor)`: the tokens one expert takes at most, an integer.

    factor: how many times its even share of all (token, choice) pairs.
    """
    hint = "factor * n_token * n_active / n_expert, rounded up."
    return examine("expert_capacity", answer, _capacities(answer), hint)


def _capacities(answer: Any) -> Iterator[Case]:
    for n, k, e, factor in ((64, 1, 8, 1.0), (100, 2, 8, 1.25), (1000, 2, 64, 1.0), (30, 3, 16, 1.5)):
        pairs, even = n * k, n * k / e
        mistakes = [
            (int(factor * even), "rounded down: a place that is needed in part is needed. Use math.ceil."),
            (math.ceil(factor * n / e), "every token counts n_active times: it goes to so many experts."),
            (factor * even, "nobody takes a part of a token: round up."),
            (math.ceil(factor * pairs), "that is room for everything: an expert's even share is one n_expert-th."),
            (math.ceil(even / factor), "divided by the factor: 1.25 is a quarter more room, not less."),
            (math.ceil(even), "the even share itself: the factor is how many times that."),
        ]
        what = f"{n} tokens, {k} of {e} experts each, factor {factor:g}"
        yield Case(what, partial(answer, n, k, e, factor), math.ceil(factor * even), mistakes)


def kept_tokens(answer: Callable[..., Any]) -> Result:
    """`answer(choice, capacity)`: True for each token that its expert takes, as a list; earlier tokens go first.

    choice: the number of the one expert that each token chose.
    """
    hint = "go through the tokens in order and count how many each expert has taken so far."
    return examine("kept_tokens", answer, _kept(answer), hint)


def _kept(answer: Any) -> Iterator[Case]:
    for choice, capacity in (([0, 1, 0, 0, 1], 2), ([2, 2, 2, 0, 2, 1], 3), ([1, 1, 0, 1, 0, 0, 0], 1)):
        mistakes = [
            (take(choice, capacity + 1), "one too many: after `capacity` tokens an expert is full."),
            (take(choice[::-1], capacity)[::-1], "the later tokens were kept: the earlier ones go first."),
            ([i < capacity for i in range(len(choice))], "each expert has places of its own: count them apart."),
            ([not kept for kept in take(choice, capacity)], "the other way round: True is for those that are kept."),
            ([True] * len(choice), "nobody was dropped: an expert takes at most `capacity`."),
        ]
        yield Case(
            f"choices {choice}, capacity {capacity}",
            partial(answer, choice, capacity),
            take(choice, capacity),
            mistakes,
        )


def take(choice: list[int], capacity: int) -> list[bool]:
    """Say which tokens find a place."""
    return [choice[:i].count(expert) < capacity for i, expert in enumerate(choice)]


def bias_step(answer: Callable[..., Any]) -> Result:
    """`answer(bias, load, rate)`: the bias after one step of balancing without a loss (Wang et al. 2024), [E].

    load: the share of choices that each expert got in the last batch.
    """
    hint = "bias + rate * (load.mean() - load).sign(): only the direction counts."
    return examine("bias_step", answer, _biases(answer), hint)


def _biases(answer: Any) -> Iterator[Case]:
    for load, rate in (([0.7, 0.1, 0.1, 0.1], 0.01), ([0.25, 0.5, 0.25, 0.0], 0.1), ([0.1, 0.9], 0.001)):
        loads = torch.tensor(load, dtype=torch.float64)
        bias = torch.linspace(-1, 1, len(load), dtype=torch.float64)
        error = loads.mean() - loads
        mistakes = [
            (bias - rate * error.sign(), "the wrong way: who is chosen too often must become less likely."),
            (bias + rate * error, "the step is as long as the error: the paper takes its sign alone."),
            (bias + rate * (0.5 - loads).sign(), "compared with a half: compare with the mean load."),
            (rate * error.sign(), "the step alone: add it to the bias."),
            (bias - rate * loads.sign(), "all that were chosen at all go down: compare with the mean load."),
        ]
        what = f"load {load}, rate {rate:g}"
        yield Case(what, partial(answer, bias.clone(), loads.clone(), rate), bias + rate * error.sign(), mistakes)


def exchange_bytes(answer: Callable[..., Any]) -> Result:
    """`answer(n_token, n_active, d_model, itemsize)`: bytes a rank hands to all_to_all in one mixture's forward pass.

    n_token tokens are on each rank, and all experts are chosen equally often, so that as many arrive as leave. The few
    bytes that say how many are coming are left out.
    """
    hint = "n_token * n_active rows of d_model numbers leave, and as many outputs go back."
    return examine("exchange_bytes", answer, _exchanges(answer), hint)


def _exchanges(answer: Any) -> Iterator[Case]:
    for n, k, d, w in ((10, 1, 8, 4), (4096, 2, 4096, 2), (128, 8, 7168, 1)):
        once = n * k * d * w
        mistakes = [
            (once, "there only: the outputs of the tokens that came go back, too."),
            (2 * n * d * w, "a token goes to n_active experts, once to each."),
            (n * d * w, "a token goes to n_active experts, and its outputs come back."),
            (2 * n * k * d, "these are numbers: each takes itemsize bytes."),
            (4 * once, "forward and backward together: asked is forward."),
        ]
        what = f"{n} tokens to {k} experts each, d_model {d}, {w} bytes a number"
        yield Case(what, partial(answer, n, k, d, w), 2 * once, mistakes)


def expert_gradient(answer: Callable[..., Any]) -> Result:
    """`answer(world, gradient, routed)`: the whole batch's gradient of one parameter, from what backward left here.

    Each rank's loss is the sum over its own tokens, divided by the number of all tokens. routed: whether the parameter
    belongs to an expert that only this rank holds, or to what every rank holds.
    """
    hint = "all_reduce what every rank holds; an expert has seen the tokens of all ranks already."
    return examine("expert_gradient", answer, _gradients(answer), hint)


def _gradients(answer: Any) -> Iterator[Case]:
    for p in (2, 3, 4):
        dense = [torch.tensor([1.0, -3.0], dtype=torch.float64) * (rank + 1) for rank in range(p)]
        routed = [torch.tensor([5.0, 2.0], dtype=torch.float64) * 10**rank for rank in range(p)]
        total, all_routed = torch.stack(dense).sum(0), torch.stack(routed).sum(0)
        mistakes = [
            (
                _both([total] * p, [all_routed] * p),
                "an expert's gradient was added to that of other experts: leave it.",
            ),
            (_both(dense, routed), "nothing was communicated: what every rank holds is one summand on each."),
            (_both([total / p] * p, routed), "the loss is divided by all tokens already: add up, do not average."),
            (_both(dense, [all_routed] * p), "the other way round: the routed ones are complete."),
            (_both([total] * p, [g / p for g in routed]), "an expert's gradient is complete: do not divide it."),
        ]
        run = partial(on_ranks, _of_both, [(answer, d, r) for d, r in zip(dense, routed, strict=True)])
        what, most = f"{p} ranks: a dense, a routed one", total.nbytes
        yield Case(what, run, _both([total] * p, routed), mistakes, per_rank=True, most_bytes=most)


def _both(dense: list[Tensor], routed: list[Tensor]) -> list[list[Tensor]]:
    return [list(pair) for pair in zip(dense, routed, strict=True)]


def _of_both(world: Group, answer: Callable[..., Any], dense: Tensor, routed: Tensor) -> Any:
    """Ask for both gradients; None where the answer is still empty."""
    found = [answer(world, dense, False), answer(world, routed, True)]
    return None if all(x is None or x is ... for x in found) else found
