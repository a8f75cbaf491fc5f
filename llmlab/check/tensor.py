"""Exercises of notebook 23: one layer, one loss and one gradient made by several ranks that share every matrix."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from llmlab.check.examine import Case, Result, examine, on_ranks


def tensor_mlp(answer: Callable[..., Any]) -> Result:
    """`answer(world, x, A, B, b)`: relu(x A) B + b on every rank, from this rank's columns of A and rows of B.

    x [n, D] and b [D] are whole on every rank; A is [D, F/p], B [F/p, D].
    """
    hint = "relu(x @ A) @ B is this rank's summand: all_reduce it, and then add b, once."
    return examine("tensor_mlp", answer, _mlps(answer), hint)


def _mlps(answer: Any) -> Iterator[Case]:
    for ranks in (2, 3, 4):
        x, A, B, b = (_numbers(ranks, *shape) for shape in ((3, 4), (4, 12), (12, 4), (4,)))
        columns, rows = A.chunk(ranks, 1), B.chunk(ranks, 0)
        summands = [(x @ a).relu() @ r for a, r in zip(columns, rows, strict=True)]
        total = torch.stack(summands).sum(0)
        mistakes = [
            ([total + ranks * b] * ranks, "b came into the sum from every rank: add it after the all_reduce."),
            ([y + b for y in summands], "each rank's own summand: nothing was communicated."),
            ([total / ranks + b] * ranks, "the average of the summands: the parts of a sum are added up."),
            ([total] * ranks, "b is missing."),
            ([(x @ A) @ B + b] * ranks, "relu is missing: it comes between the two products."),
        ]
        run = partial(on_ranks, answer, [(x, a, r, b) for a, r in zip(columns, rows, strict=True)])
        yield Case(f"{ranks} ranks", run, [total + b] * ranks, mistakes, per_rank=True)


def vocabulary_loss(answer: Callable[..., Any]) -> Result:
    """`answer(world, logits, targets)`: the mean cross-entropy in nats, on every rank, from this rank's logits.

    logits [n, V/p]: those of tokens rank V/p to (rank + 1) V/p - 1; targets [n]: numbers of the whole vocabulary.
    """
    hint = "log Σ exp(z) - z_target: all_reduce the sum of exp, and the target's logit from the one rank that has it."
    return examine("vocabulary_loss", answer, _losses(answer), hint)


def _losses(answer: Any) -> Iterator[Case]:
    for ranks, offset in ((2, 0.0), (4, 0.0), (2, 1000.0)):
        logits, targets = offset + _numbers(ranks, 3, 24), torch.tensor([23, 0, 9])
        parts = logits.chunk(ranks, 1)
        nll = _mean_nll(logits.logsumexp(1), logits, targets)
        overflow = _mean_nll(logits.exp().sum(1).log(), logits, targets)
        own = [_mean_nll(z.logsumexp(1), logits, targets) for z in parts]
        mistakes = [
            ([overflow] * ranks, "exp overflows: subtract the largest logit first, the largest over all ranks."),
            (own, "the sum of exp is over this rank's part of the vocabulary only: all_reduce it."),
            ([nll * len(targets)] * ranks, "the sum over the tokens: asked is the mean."),
            ([-nll] * ranks, "the sign: the loss is minus the log of a probability."),
            ([nll / torch.log(torch.tensor(2.0))] * ranks, "bits: asked are nats, the natural logarithm."),
        ]
        what = f"{ranks} ranks, logits up to {logits.max():.0f}"
        run = partial(on_ranks, answer, [(z, targets) for z in parts])
        most = 4 * logits[:, 0].nbytes  # a few numbers a token, not its logits
        yield Case(what, run, [nll] * ranks, mistakes, per_rank=True, most_bytes=most)


def gain_gradient(answer: Callable[..., Any]) -> Result:
    """`answer(world, normed, grad)`: the whole gradient of a norm's gain g, where y = normed * g, on every rank.

    normed, grad [T/p, D]: this rank's tokens before the gain is applied, and the loss's gradient with respect to y.
    """
    hint = "dL/dg is Σ over tokens of grad * normed; this rank has a slice of the tokens: all_reduce its sum."
    return examine("gain_gradient", answer, _gains(answer), hint)


def _gains(answer: Any) -> Iterator[Case]:
    for ranks in (2, 3, 4):
        normed, grad = _numbers(ranks, 12, 5), _numbers(ranks + 10, 12, 5)
        parts = list(zip(normed.chunk(ranks), grad.chunk(ranks), strict=True))
        own = [(n * g).sum(0) for n, g in parts]
        total = torch.stack(own).sum(0)
        mistakes = [
            (own, "this rank's tokens only: every rank would step differently."),
            ([total / ranks] * ranks, "an average: the ranks' sums over their tokens add up."),
            ([grad.sum(0)] * ranks, "that is a bias's gradient: a gain's is weighted by what it multiplies."),
            ([total / 12] * ranks, "divided by the tokens: the loss has seen to that already."),
        ]
        run = partial(on_ranks, answer, parts)
        yield Case(f"{ranks} ranks", run, [total] * ranks, mistakes, per_rank=True, most_bytes=total.nbytes)


def tensor_block_bytes(answer: Callable[..., Any]) -> Result:
    """`answer(n_layer, tokens, d_model, number_bytes)`: what a rank hands over in the blocks of one training step.

    Tensor parallelism without sequence parallelism, whatever the number of ranks; forward and backward.
    """
    hint = "two regions a block, each with one all_reduce of [tokens, d_model] forward and one backward."
    return examine("tensor_block_bytes", answer, _block_bytes(answer), hint)


def _block_bytes(answer: Any) -> Iterator[Case]:
    for n_layer, tokens, d_model, w in ((1, 10, 4, 4), (32, 4096, 4096, 2), (96, 2048, 12288, 2)):
        one = tokens * d_model * w
        mistakes = [
            (2 * n_layer * one, "half: count forward and backward, attention and MLP."),
            (n_layer * one, "a quarter: two regions, two directions."),
            (4 * n_layer * one // w, "these are numbers: each takes number_bytes."),
            (8 * n_layer * one, "what a ring sends for it: asked is what a rank hands over."),
            (4 * one, "of one block: there are n_layer."),
        ]
        what = f"{n_layer} layers, {tokens} tokens, d_model {d_model}, {w} bytes"
        yield Case(what, partial(answer, n_layer, tokens, d_model, w), 4 * n_layer * one, mistakes)


def _mean_nll(log_sum: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
    return (log_sum - logits.gather(1, targets[:, None])[:, 0]).mean()


def _numbers(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def waiting_share(answer: Callable[..., Any]) -> Result:
    """`answer(tokens, flops, nbytes, calls, latency, ranks, peak, bandwidth)`: the share of a step spent in messages.

    flops: of a token, which the ranks share.  nbytes: of a token, which each rank hands over.  calls: messages of the
    step, each `latency` seconds late.  peak: FLOP/s of a rank.  bandwidth: bytes/s. Nothing overlaps.
    """
    hint = "waits = calls * latency + tokens * nbytes / bandwidth; works = tokens * flops / (ranks * peak)."
    return examine("waiting_share", answer, _waits(answer), hint)


def _waits(answer: Any) -> Iterator[Case]:
    flops, nbytes, calls, latency, peak, bandwidth = 2.4e9, 131_072, 16, 1e-5, 4e14, 4e11
    for tokens, ranks in ((2048, 8), (16_384, 8), (2048, 2)):
        late, moves = calls * latency, tokens * nbytes / bandwidth
        works = tokens * flops / peak
        waits = late + moves
        mistakes = [
            (waits / (works / ranks), "the wait beside the work; asked is its share of the step, which is both."),
            (waits / (waits + works), "the ranks share the work: each has flops / ranks of a token."),
            (moves / (moves + works / ranks), "each call is late, however few tokens: calls * latency."),
            (_share(tokens * late + moves, works / ranks), "a call is late once, not once a token."),
            (_share(latency + moves, works / ranks), "each of the calls is late, not the step once."),
        ]
        what = f"{tokens:,} tokens on {ranks} ranks"
        run = partial(answer, tokens, flops, nbytes, calls, latency, ranks, peak, bandwidth)
        yield Case(what, run, _share(waits, works / ranks), mistakes)


def _share(waits: float, works: float) -> float:
    return waits / (waits + works)
