"""Exercises of notebook 35: an adapter's size, merging it, a group's baseline, weight sync, two groups' time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from llmlab.check.examine import Case, Result, examine

FP32 = 4  # bytes


def lora_parameters(answer: Callable[..., Any]) -> Result:
    """`answer(d_in, d_out, rank, layers)`: how many numbers train, with an adapter on one matrix of each layer."""
    hint = "A is rank x d_in and B is d_out x rank, once per layer."
    return examine("lora_parameters", answer, _numbers(answer), hint)


def _numbers(answer: Any) -> Iterator[Case]:
    for d_in, d_out, rank, layers in ((576, 576, 8, 30), (576, 192, 4, 30), (4096, 14336, 16, 32)):
        once = rank * (d_in + d_out)
        mistakes = [
            (once, "that is one matrix: there is one in each of the layers."),
            (layers * d_in * d_out, "that is the matrix itself: what trains is A and B beside it."),
            (layers * rank * d_in * d_out, "A and B stand beside each other: add their sizes."),
            (layers * rank * d_in, "A alone: B has rank numbers for each output feature."),
            (layers * 2 * rank * d_in, "B has as many rows as there are output features: d_out, not d_in."),
        ]
        what = f"{d_in} to {d_out}, rank {rank}, {layers} layers"
        yield Case(what, partial(answer, d_in, d_out, rank, layers), layers * once, mistakes)


def merged_weight(answer: Callable[..., Any]) -> Result:
    """`answer(weight, a, b, alpha)`: the one matrix [O, I] that computes what weight, A [r, I] and B [O, r] do."""
    return examine("merged_weight", answer, _merged(answer), "weight + alpha / r * (b @ a), r being a's rows.")


def _merged(answer: Any) -> Iterator[Case]:
    for out, into, rank, alpha in ((5, 3, 2, 8.0), (4, 6, 1, 3.0), (3, 7, 3, 12.0)):
        generator = torch.Generator().manual_seed(out)
        w, a, b = (
            torch.randn(shape, dtype=torch.float64, generator=generator)
            for shape in ((out, into), (rank, into), (out, rank))
        )
        mistakes = [
            (w + alpha * b @ a, "the sum is too large: it is scaled by alpha / r, so that another rank is as loud."),
            (w + b @ a, "the scale is missing: alpha / r."),
            (b @ a * (alpha / rank), "that is the change alone: the frozen matrix is still there, add it."),
            ((alpha / rank) * w + b @ a, "the wrong part is scaled: the frozen matrix stays as it is."),
        ]
        run = partial(answer, w.clone(), a.clone(), b.clone(), alpha)
        yield Case(f"[{out}, {into}], rank {rank}, alpha {alpha:g}", run, w + alpha / rank * (b @ a), mistakes)


def group_advantage(answer: Callable[..., Any]) -> Result:
    """`answer(rewards, group)`: reward minus its group's mean; groups of so many answers lie side by side, [N]."""
    hint = "rewards.view(-1, group), minus its mean over dimension 1 (keepdim), flattened."
    return examine("group_advantage", answer, _advantages(answer), hint)


def _advantages(answer: Any) -> Iterator[Case]:
    for values, group in (([1, 0, 1, 1], 2), ([0, 0, 0, 3, 1, 2], 3), ([1, 1, 0, 0, 1, 0, 0, 0], 4)):
        rewards = torch.tensor(values, dtype=torch.float64)
        rows = rewards.view(-1, group)
        strided = (rewards.view(group, -1) - rewards.view(group, -1).mean(0)).flatten()
        mistakes = [
            (
                rewards - rewards.mean(),
                "one mean for all: an easy prompt's answers would all look good; one per group.",
            ),
            (strided, "these groups take every so many-th answer: a group's answers lie side by side."),
            (
                (rows.mean(1, keepdim=True) - rows).flatten(),
                "the sign is turned round: better than the mean is positive.",
            ),
            (
                rows.mean(1, keepdim=True).expand_as(rows).flatten(),
                "these are the baselines: take them from the rewards.",
            ),
        ]
        expected = (rows - rows.mean(1, keepdim=True)).flatten()
        yield Case(f"rewards {values}, groups of {group}", partial(answer, rewards.clone(), group), expected, mistakes)


def weight_sync_bytes(answer: Callable[..., Any]) -> Result:
    """`answer(n_trained, steps, generators, staleness)`: bytes of weights the trainers hand over in a run, in fp32."""
    hint = "batch t wants the weights after update t - staleness: none for t <= staleness, else 4 n to each generator."
    return examine("weight_sync_bytes", answer, _sync(answer), hint)


def _sync(answer: Any) -> Iterator[Case]:
    for n, steps, generators, staleness in (
        (1000, 10, 2, 0),
        (1000, 10, 3, 4),
        (8_030_000_000, 100, 1, 1),
        (10, 3, 2, 5),
    ):
        once, times = FP32 * n * generators, max(0, steps - 1 - staleness)
        mistakes = [
            (n * generators * times, "these are numbers: each takes 4 bytes in fp32."),
            (FP32 * n * times, "that is one generator's: each of them gets the weights."),
            (once * steps, "nobody generates with the weights after the last update, and batch 0 has the first ones."),
            (once * (steps - staleness), "one too many: batch 0 is generated with the weights everybody begins with."),
            (
                once * (steps - 1),
                "staler answers want fewer weights: the last `staleness` updates are never generated with.",
            ),
            (
                once * (steps - 1 - staleness),
                "a run that ends before the first sync sends nothing, not less than nothing.",
            ),
        ]
        what = f"{n:,} numbers, {steps} steps, {generators} generators, staleness {staleness}"
        yield Case(what, partial(answer, n, steps, generators, staleness), once * times, mistakes)


def two_group_seconds(answer: Callable[..., Any]) -> Result:
    """`answer(generate_s, train_s, steps, staleness)`: seconds of a run; staleness 0 or more, sending takes no time."""
    hint = "by turns steps (g + t); at once g + (steps - 1) max(g, t) + t: the first batch and last update stand alone."
    return examine("two_group_seconds", answer, _seconds(answer), hint)


def _seconds(answer: Any) -> Iterator[Case]:
    for g, t, steps, staleness in ((3.0, 1.0, 10, 0), (3.0, 1.0, 10, 1), (1.0, 2.5, 8, 2), (2.0, 2.0, 5, 1)):
        turns, at_once = steps * (g + t), g + (steps - 1) * max(g, t) + t
        mistakes = [
            (turns, "with staleness both groups work at once: a step takes as long as the slower group."),
            (at_once, "with staleness 0 nobody works while the other does: a step takes both times."),
            (turns if staleness == 0 else steps * max(g, t), "before the first batch nobody can train: add the ends."),
            (turns if staleness == 0 else (steps - 1) * max(g, t), "the first batch and the last update are missing."),
        ]
        what = f"{g:g} s and {t:g} s, {steps} steps, staleness {staleness}"
        yield Case(what, partial(answer, g, t, steps, staleness), turns if staleness == 0 else at_once, mistakes)
