"""Attention: right answers, and wrong ones with their hints."""

from __future__ import annotations

from math import exp

import torch

from llmlab.check.attending import (
    attention,
    cache_bytes,
    causal_weights,
    combine_tiles,
    previous_token_head,
    sink_heads,
)


def hidden(scores, diagonal, fill):
    later = torch.ones_like(scores).triu(diagonal).bool()
    return scores.masked_fill(later, fill)


def merged(sign):
    def combine(m1, s1, m2, s2):
        m = max(m1, m2)
        return m, s1 * exp(sign * (m1 - m)) + s2 * exp(sign * (m2 - m))

    return combine


def most(maps, offset=-1):
    looks = maps.diagonal(offset, 2, 3).mean(-1)
    return divmod(looks.argmax().item(), looks.shape[1])


def heads_above(on_first, share):
    return [head for head, weight in enumerate(on_first.tolist()) if weight > share]


RIGHT = [
    (attention, lambda q, k, v: torch.nn.functional.scaled_dot_product_attention(q, k, v)),
    (causal_weights, lambda scores: hidden(scores, 1, float("-inf")).softmax(-1)),
    (combine_tiles, merged(1)),
    (cache_bytes, lambda layers, heads, kv, dim, tokens: 2 * 2 * layers * kv * dim * tokens),
    (previous_token_head, most),
    (sink_heads, lambda maps, share: heads_above(maps[:, 1:, 0].mean(-1), share)),
]
WRONG = [
    (attention, lambda q, k, v: (q @ k.T).softmax(-1) @ v, "not divided"),
    (attention, lambda q, k, v: (q @ k.T / q.shape[-1]).softmax(-1) @ v, "divided by d;"),
    (attention, lambda q, k, v: q @ k.T / q.shape[-1] ** 0.5 @ v, "without a softmax"),
    (attention, lambda q, k, v: (q @ k.T / q.shape[-1] ** 0.5).softmax(0) @ v, "over the queries"),
    (attention, lambda q, k, v: (q @ k.T / q.shape[-1] ** 0.5).softmax(1), "these are the weights"),
    (attention, lambda q, k, v: q.softmax(-1) @ k.softmax(-1).T / q.shape[-1] ** 0.5 @ v, "softmax the scores"),
    (causal_weights, lambda scores: scores.softmax(-1).tril(), "masked after the softmax"),
    (causal_weights, lambda scores: hidden(scores, 1, 0.0).softmax(-1), "exp(0) = 1"),
    (causal_weights, lambda scores: hidden(scores, 0, float("-inf")).softmax(-1), "the diagonal stays"),
    (causal_weights, lambda scores: hidden(scores.T, 1, float("-inf")).T.softmax(-1), "the past is hidden"),
    (causal_weights, lambda scores: scores.softmax(-1), "nothing is masked"),
    (combine_tiles, lambda m1, s1, m2, s2: (max(m1, m2), s1 + s2), "rescale each"),
    (combine_tiles, merged(-1), "the other sign"),
    (combine_tiles, lambda m1, s1, m2, s2: (m1 + m2, s1 + s2), "the larger of the two"),
    (combine_tiles, lambda m1, s1, m2, s2: (max(m1, m2), s2), "the first tile is lost"),
    (cache_bytes, lambda layers, heads, kv, dim, tokens: 2 * layers * kv * dim * tokens, "keys and values"),
    (cache_bytes, lambda layers, heads, kv, dim, tokens: 4 * layers * heads * dim * tokens, "not all n_head"),
    (cache_bytes, lambda layers, heads, kv, dim, tokens: 4 * kv * dim * tokens, "every layer"),
    (cache_bytes, lambda layers, heads, kv, dim, tokens: 8 * layers * kv * dim * tokens, "2 bytes a number"),
    (cache_bytes, lambda layers, heads, kv, dim, tokens: 4 * layers * kv * dim, "each token"),
    (previous_token_head, lambda maps: most(maps)[::-1], "the layer comes first"),
    (previous_token_head, lambda maps: maps.diagonal(-1, 2, 3).mean(-1).argmax(), "one number for both"),
    (previous_token_head, lambda maps: most(maps, 0), "looks at itself"),
    (sink_heads, lambda maps, share: heads_above(maps[:, :, 0].mean(-1), share), "the first token is counted"),
    (sink_heads, lambda maps, share: heads_above(maps[:, -1, 0], share), "the last token's weights alone"),
    (sink_heads, lambda maps, share: heads_above(maps[:, 1:, 0].min(-1).values, share), "every token above"),
    (sink_heads, lambda maps, share: heads_above(-maps[:, 1:, 0].mean(-1), -share), "the others"),
]
