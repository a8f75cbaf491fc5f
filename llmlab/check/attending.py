"""Exercises of notebook 03: attention from its formula, the causal mask, two tiles made one, the bytes of a cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from math import exp
from typing import Any

import torch
from torch import Tensor

from llmlab.check.examine import Case, Result, examine


def attention(answer: Callable[..., Any]) -> Result:
    """`answer(q, k, v)`: softmax(q kᵀ / sqrt(d)) v, for q of [T, d], k of [S, d] and v of [S, e]; no mask."""
    hint = "scores = q @ k.T / d ** 0.5; a softmax along the keys, the last dimension; then weights @ v."
    return examine("attention", answer, _attentions(answer), hint)


def _attentions(answer: Any) -> Iterator[Case]:
    for T, S, d, e in ((3, 4, 8, 5), (2, 2, 4, 4), (1, 6, 3, 2)):
        q, k, v = _drawn(T, d, 0), _drawn(S, d, 1), _drawn(S, e, 2)
        scores = q @ k.T / d**0.5
        mistakes = [
            ((q @ k.T).softmax(-1) @ v, "the scores are not divided by the square root of d."),
            ((q @ k.T / d).softmax(-1) @ v, "divided by d; it is the square root of d."),
            (scores @ v, "without a softmax the weights are neither positive nor do they add up to 1."),
            (scores.softmax(0) @ v, "a softmax over the queries: each query's weights, a row, must add up to 1."),
            (scores.softmax(-1), "these are the weights; average the values with them."),
            (q.softmax(-1) @ k.softmax(-1).T / d**0.5 @ v, "softmax the scores, not the queries and keys."),
        ]
        what = f"q of {T} x {d}, k of {S} x {d}, v of {S} x {e}"
        yield Case(what, partial(answer, q, k, v), scores.softmax(-1) @ v, mistakes)


def causal_weights(answer: Callable[..., Any]) -> Result:
    """`answer(scores)`: from scores of [T, T] weights that add up to 1, none of them on a later position."""
    hint = "fill the scores above the diagonal with -inf, and only then take the softmax."
    return examine("causal_weights", answer, _causals(answer), hint)


def _causals(answer: Any) -> Iterator[Case]:
    for T in (4, 1, 6):
        scores = 2 * _drawn(T, T, 3)
        future = torch.ones(T, T).triu(1).bool()
        expected = scores.masked_fill(future, -torch.inf).softmax(-1)
        zeroed = scores.softmax(-1).masked_fill(future, 0.0)
        mistakes = [
            (zeroed, "masked after the softmax: rows no longer add up to 1, and the future had a say in the others."),
            (scores.masked_fill(future, 0.0).softmax(-1), "a score of 0 is not a weight of 0: exp(0) = 1. Fill -inf."),
            (
                scores.masked_fill(torch.ones(T, T).triu(0).bool(), -torch.inf).softmax(-1),
                "a token may look at itself: the diagonal stays.",
            ),
            (scores.masked_fill(future.T, -torch.inf).softmax(-1), "the past is hidden: mask above the diagonal."),
            (scores.softmax(-1), "nothing is masked."),
        ]
        yield Case(f"scores of {T} x {T}", partial(answer, scores.clone()), expected, mistakes)


def combine_tiles(answer: Callable[..., Any]) -> Result:
    """`answer(m1, s1, m2, s2)`: (m, s) of two tiles of scores together, where m is a maximum and s = Σ exp(x - m)."""
    hint = "m is the larger one; each sum was taken under its own maximum, so multiply it by exp(its maximum - m)."
    return examine("combine_tiles", answer, _tiles(answer), hint)


def _tiles(answer: Any) -> Iterator[Case]:
    for m1, s1, m2, s2 in (
        (1.0, 2.0, 3.0, 1.5),
        (4.0, 1.25, 0.5, 3.0),
        (-2.0, 1.0, -2.0, 2.0),
        (800.0, 1.0, 799.0, 2.0),
    ):
        m = max(m1, m2)
        mistakes = [
            ([m, s1 + s2], "the sums were taken under different maxima: rescale each before adding."),
            (
                [m, s1 * exp(min(50.0, m - m1)) + s2 * exp(min(50.0, m - m2))],
                "the other sign: exp(old - new), below 1.",
            ),
            ([m1 + m2, s1 + s2], "the maximum of both is the larger of the two."),
            ([m, s2], "the first tile is lost."),
        ]
        expected = [m, s1 * exp(m1 - m) + s2 * exp(m2 - m)]
        yield Case(f"({m1}, {s1}) and ({m2}, {s2})", partial(_pair, answer, m1, s1, m2, s2), expected, mistakes)


def _pair(answer: Callable[..., Any], *inputs: float) -> Any:
    got = answer(*inputs)
    return list(got) if isinstance(got, tuple) else got


def cache_bytes(answer: Callable[..., Any]) -> Result:
    """`answer(n_layer, n_head, n_kv_head, head_dim, tokens)`: bytes of the keys and values kept, in bf16."""
    hint = "in every layer each token leaves a key and a value of n_kv_head x head_dim numbers, of 2 bytes each."
    return examine("cache_bytes", answer, _caches(answer), hint)


def _caches(answer: Any) -> Iterator[Case]:
    for n_layer, n_head, n_kv_head, head_dim, tokens in ((30, 9, 3, 64, 8192), (32, 32, 8, 128, 1), (2, 4, 1, 16, 10)):
        numbers = n_layer * n_kv_head * head_dim * tokens
        mistakes = [
            (2 * numbers, "keys and values: two of each."),
            (4 * numbers * n_head // n_kv_head, "only the n_kv_head key and value heads are kept, not all n_head."),
            (4 * numbers // n_layer, "every layer has its own."),
            (8 * numbers, "bf16 is 2 bytes a number."),
            (4 * numbers // tokens, "each token leaves its own."),
        ]
        what = f"{n_layer} layers, {n_head} heads, {n_kv_head} key-value heads of {head_dim}, {tokens:,} tokens"
        yield Case(what, partial(answer, n_layer, n_head, n_kv_head, head_dim, tokens), 4 * numbers, mistakes)


def _drawn(rows: int, columns: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, dtype=torch.float64, generator=generator)


def previous_token_head(answer: Callable[..., Any]) -> Result:
    """`answer(maps)`: (layer, head) of the head that looks most at the token before, from [layers, heads, T, T].

    Row t of a map has the weights of token t. Most: in the mean over the tokens that have one before them.
    """
    hint = "the diagonal below the main one: maps.diagonal(-1, 2, 3).mean(-1); divmod of its argmax by the heads."
    return examine("previous_token_head", answer, _looking_back(answer), hint)


def _looking_back(answer: Any) -> Iterator[Case]:
    for layer, head, self_layer, self_head, T in ((1, 2, 0, 1, 5), (0, 2, 1, 0, 6)):
        maps = (torch.ones(T, T).tril() / torch.arange(1, T + 1)[:, None]).double().repeat(2, 3, 1, 1)
        maps[self_layer, self_head] = 0.2 * maps[self_layer, self_head] + 0.8 * torch.eye(T)
        before = torch.eye(T).roll(-1, 1).tril()
        before[0, 0] = 1  # the first token has nothing else to look at
        maps[layer, head] = 0.3 * maps[layer, head] + 0.7 * before
        mistakes = [
            ([head, layer], "the two numbers are the right ones: the layer comes first."),
            (3 * layer + head, "one number for both: give (layer, head)."),
            ([self_layer, self_head], "that one looks at itself: the token before is one column to the left."),
        ]
        yield Case(f"2 layers of 3 heads, {T} tokens", partial(answer, maps), [layer, head], mistakes)


def sink_heads(answer: Callable[..., Any]) -> Result:
    """`answer(maps, share)`: the heads, a list, that put more than a share of their weight on the first token.

    maps: [heads, T, T]; in the mean over all tokens but the first, which can look at nothing else.
    """
    hint = "maps[:, 1:, 0].mean(-1) > share, and the numbers of those heads."
    return examine("sink_heads", answer, _sinks(answer), hint)


def _sinks(answer: Any) -> Iterator[Case]:
    for order in ([0, 1, 2, 3], [2, 3, 1, 0]):
        on_first = torch.tensor([[0.95] * 3, [0.9, 0.85, 0.89], [0.5, 0.8, 0.99], [0.99, 0.97, 0.8]]).double()[order]
        maps = torch.zeros(4, 4, 4, dtype=torch.float64)
        maps[:, 0, 0] = 1
        maps[:, 1:, 0] = on_first
        for t in range(1, 4):
            maps[:, t, t] = 1 - on_first[:, t - 1]
        mistakes = [
            (_numbers(maps[:, :, 0].mean(-1) > 0.9), "the first token is counted: it has nothing else to look at."),
            (
                _numbers(maps[:, -1, 0] > 0.9),
                "the last token's weights alone; asked is the mean over all but the first.",
            ),
            (_numbers((on_first > 0.9).all(-1)), "every token above the share; asked is the mean."),
            (_numbers(on_first.mean(-1) <= 0.9), "the others: those below the share."),
        ]
        what = f"4 heads, 4 tokens, a share of 0.9 (on the first token: {on_first.tolist()})"
        yield Case(what, partial(answer, maps, 0.9), _numbers(on_first.mean(-1) > 0.9), mistakes)


def _numbers(found: Tensor) -> list[int]:
    return found.nonzero().flatten().tolist()
