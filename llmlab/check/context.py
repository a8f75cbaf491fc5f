"""Exercises of notebook 24: who holds which tokens, two blocks into one, a ring of your own, its bytes, what fits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from llmlab.check.examine import Case, Result, examine, on_ranks

FP32 = 4  # bytes


def zigzag(answer: Callable[..., Any]) -> Result:
    """`answer(seq, rank, size)`: the list of the token numbers that a rank holds, ascending, so that all work alike."""
    hint = "cut the sequence into 2 * size slices of equal length; rank i holds the i-th from either end."
    return examine("zigzag", answer, _orders(answer), hint)


def _orders(answer: Any) -> Iterator[Case]:
    for seq, rank, size in ((8, 0, 2), (8, 1, 2), (24, 1, 4), (24, 3, 4)):
        s, part = seq // (2 * size), seq // size
        early, late = range(rank * s, (rank + 1) * s), range((2 * size - 1 - rank) * s, (2 * size - rank) * s)
        paired = range((size + rank) * s, (size + rank + 1) * s)
        mistakes = [
            (list(range(rank * part, (rank + 1) * part)), "contiguous: the last rank would work longest."),
            (list(range(rank, seq, size)), "striped: even too, but asked is zigzag, two slices a rank."),
            ([*early, *paired], "slices i and size + i: the last rank still sees most. Pair early with late."),
            ([*late, *early], "the right tokens, not ascending: then `causal` within a rank is a plain triangle."),
            ([*early, *reversed(late)], "the late slice runs backwards: keep its tokens in order."),
        ]
        yield Case(f"{seq} tokens, rank {rank} of {size}", partial(answer, seq, rank, size), [*early, *late], mistakes)


def combine_blocks(answer: Callable[..., Any]) -> Result:
    """`answer(out_a, lse_a, out_b, lse_b)`: output and logsumexp of two blocks of keys, as if they had been one.

    out: [T, K].  lse: [T], the logarithm of the sum of exp(score) over the block's keys.
    """
    hint = "each output is a mean with total weight exp(lse): add the weights, and average the outputs with them."
    return examine("combine_blocks", answer, _blocks(answer), hint)


def _blocks(answer: Any) -> Iterator[Case]:
    for seed, size in ((0, 3), (1, 5)):
        random = torch.Generator().manual_seed(seed)
        out_a, out_b = torch.randn(2, 4, size, generator=random, dtype=torch.float64)
        lse_a, lse_b = 2 * torch.randn(2, 4, generator=random, dtype=torch.float64)
        lse = torch.logaddexp(lse_a, lse_b)
        a, b = (lse_a - lse).exp()[:, None], (lse_b - lse).exp()[:, None]
        mistakes = [
            ([(out_a + out_b) / 2, lse], "the plain mean: a block with larger scores must weigh more."),
            (
                [out_a + out_b, lse],
                "the sum: each output is a mean already, so it is their mean that is asked.",
            ),
            ([b * out_a + a * out_b, lse], "the weights the wrong way round."),
            ([a * out_a + b * out_b, lse_a + lse_b], "logarithms of sums: log(exp a + exp b), not a + b."),
            ([a * out_a + b * out_b, torch.maximum(lse_a, lse_b)], "the maximum is not the logsumexp."),
            (
                [(lse_a[:, None] * out_a + lse_b[:, None] * out_b) / (lse_a + lse_b)[:, None], lse],
                "lse is a logarithm: weigh by exp(lse).",
            ),
        ]
        run = partial(_call, answer, out_a, lse_a, out_b, lse_b)
        yield Case(f"4 queries, heads of {size}", run, [a * out_a + b * out_b, lse], mistakes)


def _call(answer: Any, *blocks: Tensor) -> Any:
    found = answer(*blocks)
    return list(found) if isinstance(found, tuple) else found


def ring_attention(answer: Callable[..., Any]) -> Result:
    """`answer(world, q, k, v)`: this rank's rows of softmax(q kᵀ / sqrt(K)) v over the keys of all ranks, not causal.

    q, k, v: [t, K], this rank's tokens.
    """
    hint = "size blocks: compute one, hand k and v to the next rank, take the previous rank's, combine."
    return examine("ring_attention", answer, _rings(answer), hint)


def _rings(answer: Any) -> Iterator[Case]:
    for ranks, t in ((2, 3), (4, 2)):
        random = torch.Generator().manual_seed(ranks)
        q, k, v = torch.randn(3, ranks * t, 4, generator=random, dtype=torch.float64)
        parts = [tuple(x.split(t)[rank] for x in (q, k, v)) for rank in range(ranks)]
        own = [_attend(*part) for part in parts]
        before = [_attend(parts[rank][0], *parts[rank - 1][1:]) for rank in range(ranks)]
        mean = [torch.stack([_attend(part[0], *other[1:]) for other in parts]).mean(0) for part in parts]
        total = [block * ranks for block in mean]
        mistakes = [
            (own, "each rank sees its own keys only: nothing came round."),
            (mean, "the plain mean of the blocks: weigh each by exp(its logsumexp)."),
            (total, "the sum of the blocks: each is a mean already."),
            (before, "only the last block is left: combine it with those before."),
            ([_attend(q.split(t)[rank], k, v, 1.0) for rank in range(ranks)], "the scores want 1 / sqrt(K)."),
        ]
        run = partial(on_ranks, answer, parts)
        wanted = [_attend(q.split(t)[rank], k, v) for rank in range(ranks)]
        yield Case(f"{ranks} ranks with {t} tokens each", run, wanted, mistakes, per_rank=True)


def _attend(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
    return (q @ k.T * (q.shape[-1] ** -0.5 if scale is None else scale)).softmax(-1) @ v


def ring_attention_bytes(answer: Callable[..., Any]) -> Result:
    """`answer(batch, seq, ranks, key_heads, head_dim)`: bytes a rank hands over in a layer, fp32.

    Keys and values go round in forward and again in backward; with them, then, their gradients, all the way home.
    """
    hint = "keys and values make ranks - 1 hops, twice; their gradients make as many hops as there are ranks."
    return examine("ring_attention_bytes", answer, _hops(answer), hint)


def _hops(answer: Any) -> Iterator[Case]:
    for batch, seq, ranks, heads, dim in ((1, 8, 2, 1, 2), (2, 4096, 4, 8, 64), (1, 131072, 16, 8, 128)):
        kv = 2 * batch * seq // ranks * heads * dim * FP32
        right = kv * (2 * (ranks - 1) + ranks)
        mistakes = [
            (right // 2, "keys and values: two tensors."),
            (right // FP32, "these are numbers: each takes 4 bytes in fp32."),
            (kv * (ranks - 1), "forward only: in backward keys and values go round again, with their gradients."),
            (kv * 2 * (ranks - 1), "and the gradients of keys and values, which go round with them."),
            (kv * 3 * (ranks - 1), "one hop more: after the last rank the gradients still have to come home."),
            (kv * 3 * ranks, "keys and values need no last hop: their owner has them."),
            (right * ranks, "a rank holds seq / ranks tokens."),
        ]
        what = f"{batch} x {seq:,} tokens on {ranks} ranks, {heads} key heads of {dim}"
        yield Case(what, partial(answer, batch, seq, ranks, heads, dim), right, mistakes)


def longest_context(answer: Callable[..., Any]) -> Result:
    """`answer(capacity, fixed, per_token, ranks)`: the longest sequence that fits, in zigzag over the ranks.

    capacity: bytes of a device.  fixed: what each holds whatever the length.  per_token: bytes of activations a token.
    """
    hint = "what is left beside `fixed` holds so many tokens a rank; the sequence must divide into 2 * ranks slices."
    return examine("longest_context", answer, _lengths(answer), hint)


def _lengths(answer: Any) -> Iterator[Case]:
    for capacity, fixed, per_token, ranks in (
        (1000, 100, 7, 2),
        (80 * 2**30, 20 * 2**30, 600_000, 8),
        (10**6, 0, 999, 3),
    ):
        room = (capacity - fixed) // per_token  # tokens a rank
        mistakes = [
            ((capacity - fixed) * ranks // per_token, "the right length, uncut: it must divide into 2 * ranks slices."),
            (room * ranks, "an odd number of tokens a rank does not split into its two slices."),
            (capacity // per_token // 2 * 2 * ranks, "what is fixed takes room too, on every rank."),
            (room // 2 * 2, "one rank's tokens: there are `ranks` times as many."),
            ((capacity * ranks - fixed) // per_token // (2 * ranks) * 2 * ranks, "each rank holds what is fixed."),
        ]
        what = f"{capacity:,} bytes, {fixed:,} fixed, {per_token:,} a token, {ranks} ranks"
        yield Case(what, partial(answer, capacity, fixed, per_token, ranks), room // 2 * 2 * ranks, mistakes)
