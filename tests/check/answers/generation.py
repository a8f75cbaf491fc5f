"""Generating and scoring text: right answers, and wrong ones with their hints."""

from __future__ import annotations

import math
from collections import Counter

import torch

from llmlab.check.generation import beam_step, clipped_precision, kv_cache_bytes, perplexity, tempered, top_p_kept
from llmlab.generation import probabilities


def nucleus(p, top_p, keep_crossing=True, renormalise=True, restore=True):
    ordered, order = p.sort(descending=True)
    before = ordered.cumsum(0) - ordered
    kept = ordered * (before < top_p - 1e-12 if keep_crossing else before + ordered <= top_p + 1e-12)
    kept = torch.zeros_like(p).scatter(0, order, kept) if restore else kept
    return kept / kept.sum() if renormalise else kept


def threshold(p, top_p):
    return p * (p >= 1 - top_p) / (p * (p >= 1 - top_p)).sum()


def weighted(values, counts):
    return sum(v * n for v, n in zip(values, counts, strict=True)) / sum(counts)


def continued(scores, log_p, width):
    every = [(beam, token) for beam in range(len(scores)) for token in range(log_p.shape[1])]
    return sorted(every, key=lambda pair: -(scores[pair[0]] + log_p[pair]))[:width]


RIGHT = [
    (tempered, lambda logits, t: (logits / t).softmax(-1)),
    (top_p_kept, nucleus),
    (perplexity, lambda losses, counts: math.exp(weighted(losses, counts))),
    (kv_cache_bytes, lambda layers, heads, dim, tokens, width: 2 * layers * heads * dim * tokens * width),
    (clipped_precision, lambda h, r: (Counter(h) & Counter(r)).total() / len(h)),
    (tempered, probabilities),
    (top_p_kept, lambda p, top_p: probabilities(p.log(), top_p=top_p)),
    (beam_step, continued),
]
WRONG = [
    (tempered, lambda logits, t: logits.softmax(-1) / t, "do not add up to 1"),
    (tempered, lambda logits, t: logits.softmax(-1) / t / (logits.softmax(-1) / t).sum(), "changes nothing"),
    (tempered, lambda logits, t: (logits * t).softmax(-1), "wrong way round"),
    (tempered, lambda logits, t: logits / t, "softmax is missing"),
    (tempered, lambda logits, t: (logits - t).softmax(-1) * 2, "softmax(logits / temperature)"),
    (top_p_kept, lambda p, top_p: nucleus(p, top_p, renormalise=False), "add up to 1 again"),
    (top_p_kept, lambda p, top_p: nucleus(p, top_p, keep_crossing=False), "the token that crosses"),
    (top_p_kept, threshold, "a threshold for single tokens"),
    (top_p_kept, lambda p, top_p: nucleus(p, top_p, restore=False), "its own place back"),
    (top_p_kept, lambda p, top_p: p, "sort, add up"),
    (perplexity, lambda losses, counts: math.exp(sum(losses) / len(losses)), "the mean of the batches' means"),
    (perplexity, lambda losses, counts: sum(map(math.exp, losses)) / len(losses), "the mean of perplexities: take"),
    (perplexity, lambda losses, counts: weighted([math.exp(x) for x in losses], counts), "by tokens: take"),
    (perplexity, weighted, "that is the loss"),
    (perplexity, lambda losses, counts: 2 ** weighted(losses, counts), "the base is e"),
    (kv_cache_bytes, lambda layers, heads, dim, tokens, width: layers * heads * dim * tokens * width, "two of them"),
    (kv_cache_bytes, lambda layers, heads, dim, tokens, width: 2 * heads * dim * tokens * width, "a cache of its own"),
    (kv_cache_bytes, lambda layers, heads, dim, tokens, width: 2 * layers * heads * dim * tokens, "these are numbers"),
    (
        kv_cache_bytes,
        lambda layers, heads, dim, tokens, width: 2 * layers * heads * dim * tokens**2 * width,
        "a row for each",
    ),
    (kv_cache_bytes, lambda *sizes: 1, "a key and a value"),
    (clipped_precision, lambda h, r: sum(word in r for word in h) / len(h), "repeated for ever"),
    (clipped_precision, lambda h, r: (Counter(h) & Counter(r)).total() / len(r), "that is recall"),
    (clipped_precision, lambda h, r: len({*h} & {*r}) / len({*h}), "different words only"),
    (clipped_precision, lambda h, r: 0.5, "at most as often"),
    (beam_step, lambda scores, log_p, width: continued(scores * 0, log_p, width), "counts, too"),
    (beam_step, lambda scores, log_p, width: list(enumerate(log_p.argmax(1).tolist())), "may come from one beam"),
    (beam_step, lambda *a: [(token, beam) for beam, token in continued(*a)], "the beam comes first"),
    (beam_step, lambda *a: continued(*a)[::-1], "the worst of them first"),
    (beam_step, lambda s, p, width: (s[:, None] + p).flatten().topk(width).indices, "the flattened table"),
]
