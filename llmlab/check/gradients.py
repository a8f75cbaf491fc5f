"""Exercises of notebooks 00 and 20: gradients that several ranks make together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from llmlab.check.examine import Case, Result, examine, on_ranks

FP32 = 4  # bytes


def data_parallel_scale(answer: Callable[..., Any]) -> Result:
    """`answer(world, gradient)`: the mean loss's gradient over all rows, from each rank's over equally many."""
    hint = "all_reduce the gradients, then divide by the number of ranks."
    return examine("data_parallel_scale", answer, _scales(answer), hint)


def _scales(answer: Any) -> Iterator[Case]:
    for ranks in (2, 3, 4):
        own = [torch.tensor([1.0, -2.0, 6.0], dtype=torch.float64) * (rank + 1) for rank in range(ranks)]
        total = torch.stack(own).sum(0)
        mistakes = [
            ([total] * ranks, "the sum, world.size times too long: the loss is a mean, so multiply by 1 / world.size."),
            ([total / ranks**2] * ranks, "divided twice: once is enough (op='avg' divides, too)."),
            (own, "each rank's own gradient: nothing was communicated."),
            ([g / ranks for g in own], "each rank's own gradient, divided: nothing was communicated."),
            ([total * ranks] * ranks, "multiplied by world.size: divide by it."),
            ([total / 2] * ranks, "right for 2 ranks only: divide by world.size."),
        ]
        run = partial(on_ranks, answer, [(gradient,) for gradient in own])
        most = total.nbytes + 8  # and a count of the ranks
        yield Case(f"{ranks} ranks", run, [total / ranks] * ranks, mistakes, per_rank=True, most_bytes=most)


def unequal_batches(answer: Callable[..., Any]) -> Result:
    """`answer(world, gradient_sum, n_tokens)`: the gradient of the mean loss over all ranks' target tokens.

    gradient_sum is the gradient of the sum of this rank's token losses, n_tokens how many tokens they are.
    """
    hint = "all_reduce gradient_sum, all_reduce n_tokens (as a tensor), and divide one by the other."
    return examine("unequal_batches", answer, _batches(answer), hint)


def _batches(answer: Any) -> Iterator[Case]:
    for counts in ([1, 3], [4, 1, 2], [0, 3, 1, 4]):
        ranks, n_token = len(counts), sum(counts)
        sums = [torch.tensor([3.0, 1.0 + rank], dtype=torch.float64) * n for rank, n in enumerate(counts)]
        total = torch.stack(sums).sum(0)
        means = torch.stack([g / n for g, n in zip(sums, counts, strict=True)])  # 0 / 0 where a rank has no token
        mistakes = [
            ([means.mean(0)] * ranks, "the mean of the ranks' means: a rank with more tokens must weigh more."),
            ([total] * ranks, "the sum over all tokens: divide by how many there are, on all ranks together."),
            ([total / ranks] * ranks, "divided by the number of ranks: the loss is a mean over tokens."),
            ([total / n for n in counts], "divided by this rank's tokens: all_reduce n_tokens, too."),
            (list(means), "each rank's own mean: nothing was communicated."),
        ]
        what = f"{ranks} ranks with {', '.join(map(str, counts))} tokens"
        run = partial(on_ranks, answer, list(zip(sums, counts, strict=True)))
        most = total.nbytes + 8  # and the number of tokens
        yield Case(what, run, [total / n_token] * ranks, mistakes, per_rank=True, most_bytes=most)


def bucket_bytes(answer: Callable[..., Any]) -> Result:
    """`answer(n_parameters, micro_batches, no_sync)`: bytes a rank hands over in one data-parallel step, in fp32.

    no_sync: whether all micro-batches but the last accumulate without communicating.
    """
    hint = "each communicating micro-batch hands over every gradient once, 4 bytes a parameter, whatever the buckets."
    return examine("bucket_bytes", answer, _buckets(answer), hint)


def _buckets(answer: Any) -> Iterator[Case]:
    for n, m, no_sync in ((1000, 1, False), (1000, 4, True), (1000, 4, False), (124_000_000, 8, True)):
        once, times, other = FP32 * n, *((1, m) if no_sync else (m, 1))
        mistakes = [
            (n * times, "these are numbers: each takes 4 bytes in fp32."),
            (once * other, "no_sync the wrong way round: with it, only the last micro-batch communicates."),
            (once * (m - 1), "with no_sync one micro-batch does communicate: the last."),
            (2 * n * times, "2 bytes a number, as in bf16."),
            (2 * once * times, "what a ring sends for it: asked is what a rank hands over."),
        ]
        what = f"{n:,} parameters, {m} micro-batches, no_sync={no_sync}"
        yield Case(what, partial(answer, n, m, no_sync), once * times, mistakes)


def overlapped_seconds(answer: Callable[..., Any]) -> Result:
    """`answer(n_buckets, n_bytes, backward_s, latency_s, bytes_per_s)`: when the last bucket has been sent.

    Backward fills equal buckets one after another, at a steady pace; the link takes one at a time, each its latency and
    its bytes over bytes_per_s. Counted from the start of backward.
    """
    hint = (
        "go through the buckets: one starts when it is full and the one before it has been sent, the later of the two."
    )
    return examine("overlapped_seconds", answer, _overlaps(answer), hint)


def _overlaps(answer: Any) -> Iterator[Case]:
    for n, size, backward, latency, rate in (
        (4, 8e9, 8.0, 0.5, 2e9),  # the link keeps up, with half a second to spare
        (4, 8e9, 2.0, 0.5, 2e9),  # it does not
        (1, 1e9, 3.0, 0.25, 1e9),
        (20, 1e9, 3.0, 0.25, 1e9),  # all of it is latency
    ):
        one = latency + size / n / rate
        mistakes = [
            (backward + n * one, "nothing is hidden here: a bucket starts when it is full, not when backward ends."),
            (backward + one, "the link takes one bucket at a time: where it is behind, the last one waits."),
            (backward / n + n * one, "the link waits, too: the last bucket is full when backward ends, not before."),
            (
                max(backward, n * one),
                "the first bucket must be full before anything is sent, and the last one sent after.",
            ),
            (max(backward / n + size / rate, backward + size / n / rate) + latency, "each bucket pays the latency."),
            (max(backward / n + n * (one - latency), backward + one - latency), "each bucket pays the latency."),
        ]
        what = f"{n} buckets, {size:.0e} bytes, {backward} s of backward, {latency} s and {rate:.0e} bytes/s"
        run = partial(answer, n, size, backward, latency, rate)
        yield Case(what, run, max(backward / n + n * one, backward + one), mistakes)
