"""Exercises of notebook 06: temperature, top-p, a step of beams, perplexity, the cache's bytes, BLEU's precision."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from llmlab.check.examine import Case, Result, examine


def tempered(answer: Callable[..., Any]) -> Result:
    """`answer(logits, temperature)`: the probabilities to draw from."""
    return examine("tempered", answer, _tempered(answer), "softmax(logits / temperature), over the last dimension.")


def _tempered(answer: Any) -> Iterator[Case]:
    logits = torch.tensor([2.0, 1.0, -0.5, -3.0], dtype=torch.float64)
    for temperature in (0.5, 1.0, 2.0):
        p = logits.softmax(-1)
        mistakes = [
            (p / temperature, "these do not add up to 1: the logits are divided, before the softmax."),
            (p, "dividing probabilities and making them add up to 1 again changes nothing: divide the logits."),
            ((logits * temperature).softmax(-1), "the wrong way round: a low temperature sharpens, so divide."),
            (logits / temperature, "these are logits: the softmax is missing."),
        ]
        run, expected = partial(answer, logits.clone(), temperature), (logits / temperature).softmax(-1)
        yield Case(f"temperature {temperature:g}", run, expected, mistakes)


def top_p_kept(answer: Callable[..., Any]) -> Result:
    """`answer(p, top_p)`: p cut to the fewest likeliest tokens that reach top_p together, adding up to 1 again."""
    hint = "sort, add up, keep each token before which the sum is below top_p; scatter back, divide by the sum."
    return examine("top_p_kept", answer, _top_p(answer), hint)


def _top_p(answer: Any) -> Iterator[Case]:
    p = torch.tensor([0.15, 0.5, 0.05, 0.25, 0.04, 0.01], dtype=torch.float64)
    for top_p in (0.7, 0.4, 0.95, 1.0):
        ordered, order = p.sort(descending=True)
        before = ordered.cumsum(0) - ordered
        kept = torch.zeros(6, dtype=torch.float64).scatter(0, order, ordered.masked_fill(before >= top_p - 1e-12, 0.0))
        under = torch.zeros(6, dtype=torch.float64).scatter(
            0, order, ordered.masked_fill(before + ordered > top_p + 1e-12, 0.0)
        )
        mistakes = [
            (kept, "what is left must add up to 1 again."),
            (_to_one(under), "the token that crosses top_p stays, or the likeliest alone may already be cut."),
            (_to_one(p.masked_fill(p < 1 - top_p, 0.0)), "a threshold for single tokens; top_p is for their sum."),
            (_to_one(kept)[order], "sorted: give each token its own place back."),
        ]
        yield Case(f"top_p {top_p:g}", partial(answer, p.clone(), top_p), _to_one(kept), mistakes)


def _to_one(p: Tensor) -> Tensor:
    return p / p.sum()


def perplexity(answer: Callable[..., Any]) -> Result:
    """`answer(losses, counts)`: the perplexity, from each batch's mean loss in nats and its number of target tokens."""
    hint = "exp(Σ loss x count / Σ count): first the mean over all tokens, then the exponential."
    return examine("perplexity", answer, _perplexities(answer), hint)


def _perplexities(answer: Any) -> Iterator[Case]:
    for losses, counts in (([2.0, 4.0], [300, 100]), ([1.0, 3.0, 2.0], [10, 70, 20])):
        n, batches = sum(counts), len(losses)
        mean = sum(loss * count for loss, count in zip(losses, counts, strict=True)) / n
        each = [math.exp(loss) for loss in losses]
        weighted = sum(p * count for p, count in zip(each, counts, strict=True)) / n
        mistakes = [
            (math.exp(sum(losses) / batches), "the mean of the batches' means: a batch with more tokens weighs more."),
            (sum(each) / batches, "the mean of perplexities: take the mean of the losses first, over tokens."),
            (weighted, "the mean of perplexities, by tokens: take the mean of the losses first."),
            (mean, "that is the loss: perplexity is its exponential."),
            (2**mean, "the loss is in nats, so the base is e; 2 is for bits."),
        ]
        what = f"batches of {', '.join(map(str, counts))} tokens"
        yield Case(what, partial(answer, list(losses), list(counts)), math.exp(mean), mistakes)


def kv_cache_bytes(answer: Callable[..., Any]) -> Result:
    """`answer(n_layer, n_kv_head, head_dim, tokens, bytes_per_number)`: bytes of the KV cache of one sequence."""
    hint = "a key and a value, each of head_dim numbers, for every layer, key head and token."
    return examine("kv_cache_bytes", answer, _caches(answer), hint)


def _caches(answer: Any) -> Iterator[Case]:
    for name, sizes in (("GPT-3", (96, 96, 128, 2048, 2)), ("SmolLM2-135M", (30, 3, 64, 8192, 4))):
        layers, heads, dim, tokens, width = sizes
        right = 2 * layers * heads * dim * tokens * width
        mistakes = [
            (right // 2, "keys and values: two of them."),
            (right // layers, "every layer has a cache of its own."),
            (right // width, "these are numbers: times bytes_per_number."),
            (right * tokens, "the scores are tokens x tokens; what is kept is a row for each token."),
        ]
        yield Case(f"{name}, {tokens:,} tokens", partial(answer, *sizes), right, mistakes)


def clipped_precision(answer: Callable[..., Any]) -> Result:
    """`answer(hypothesis, reference)`, lists of words: BLEU's p₁, the share of words the reference has too."""
    hint = "each word counts at most as often as it stands in the reference; divide by the hypothesis's length."
    return examine("clipped_precision", answer, _precisions(answer), hint)


def _precisions(answer: Any) -> Iterator[Case]:
    for hypothesis, reference in (
        ("the the the dog barks", "the cat sat on the old mat"),
        ("a dog barks", "a dog barks at night"),
        ("no word of it", "something else"),
    ):
        words, wanted = hypothesis.split(), reference.split()
        matched = (Counter(words) & Counter(wanted)).total()
        found = sum(word in wanted for word in words)
        mistakes = [
            (found / len(words), "a word repeated for ever would score 1: count it at most as often as the reference."),
            (matched / len(wanted), "that is recall: precision divides by the hypothesis's length."),
            (len({*words} & {*wanted}) / len({*words}), "different words only: repeats count, up to the reference's."),
        ]
        yield Case(f"“{hypothesis}”", partial(answer, words, wanted), matched / len(words), mistakes)


def beam_step(answer: Callable[..., Any]) -> Result:
    """`answer(scores, log_p, width)`: the `width` likeliest continuations, as a list of (beam, token), the best first.

    scores: [k], each beam's log-probability so far.  log_p: [k, V], of each next token after it.
    """
    hint = "add: scores[:, None] + log_p; the topk of it flattened; divmod of each place by V."
    return examine("beam_step", answer, _beams(answer), hint)


def _beams(answer: Any) -> Iterator[Case]:
    for so_far, following, width in (
        ([0.7, 0.3], [[0.05, 0.5, 0.45], [0.9, 0.08, 0.02]], 2),
        ([0.45, 0.55], [[0.1, 0.2, 0.3, 0.4], [0.15, 0.6, 0.05, 0.2]], 3),
    ):
        scores, log_p = (torch.tensor(p, dtype=torch.float64).log() for p in (so_far, following))
        total, V = scores[:, None] + log_p, log_p.shape[1]
        right = _best_of(total, width)
        mistakes = [
            (_best_of(log_p, width), "the likeliest tokens; what their beams have had so far counts, too."),
            (
                [[beam, int(row.argmax())] for beam, row in enumerate(total)],
                "the best token of each beam: two of the best may come from one beam.",
            ),
            ([[token, beam] for beam, token in right], "the two numbers are the right ones: the beam comes first."),
            (right[::-1], "the right ones, the worst of them first."),
            ([beam * V + token for beam, token in right], "places in the flattened table: give (beam, token)."),
        ]
        what = f"beams of {so_far}, then {following}, width {width}"
        yield Case(what, partial(answer, scores, log_p, width), right, mistakes)


def _best_of(total: Tensor, width: int) -> list[list[int]]:
    return [list(divmod(int(place), total.shape[1])) for place in total.flatten().topk(width).indices]
