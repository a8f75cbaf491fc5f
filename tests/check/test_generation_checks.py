"""The checks of notebook 06: a right answer, typical wrong ones each with its own hint, and an empty one."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from llmlab.check import generation
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


EXERCISES = {
    "tempered": (
        lambda logits, t: (logits / t).softmax(-1),
        [
            (lambda logits, t: logits.softmax(-1) / t, "do not add up to 1"),
            (lambda logits, t: logits.softmax(-1) / t / (logits.softmax(-1) / t).sum(), "changes nothing"),
            (lambda logits, t: (logits * t).softmax(-1), "wrong way round"),
            (lambda logits, t: logits / t, "softmax is missing"),
            (lambda logits, t: (logits - t).softmax(-1) * 2, "softmax(logits / temperature)"),
        ],
    ),
    "top_p_kept": (
        nucleus,
        [
            (lambda p, top_p: nucleus(p, top_p, renormalise=False), "add up to 1 again"),
            (lambda p, top_p: nucleus(p, top_p, keep_crossing=False), "the token that crosses"),
            (threshold, "a threshold for single tokens"),
            (lambda p, top_p: nucleus(p, top_p, restore=False), "its own place back"),
            (lambda p, top_p: p, "sort, add up"),
        ],
    ),
    "perplexity": (
        lambda losses, counts: math.exp(weighted(losses, counts)),
        [
            (lambda losses, counts: math.exp(sum(losses) / len(losses)), "the mean of the batches' means"),
            (lambda losses, counts: sum(map(math.exp, losses)) / len(losses), "the mean of perplexities: take"),
            (lambda losses, counts: weighted([math.exp(x) for x in losses], counts), "by tokens: take"),
            (weighted, "that is the loss"),
            (lambda losses, counts: 2 ** weighted(losses, counts), "the base is e"),
        ],
    ),
    "kv_cache_bytes": (
        lambda layers, heads, dim, tokens, width: 2 * layers * heads * dim * tokens * width,
        [
            (lambda layers, heads, dim, tokens, width: layers * heads * dim * tokens * width, "two of them"),
            (lambda layers, heads, dim, tokens, width: 2 * heads * dim * tokens * width, "a cache of its own"),
            (lambda layers, heads, dim, tokens, width: 2 * layers * heads * dim * tokens, "these are numbers"),
            (lambda layers, heads, dim, tokens, width: 2 * layers * heads * dim * tokens**2 * width, "a row for each"),
            (lambda *sizes: 1, "a key and a value"),
        ],
    ),
    "clipped_precision": (
        lambda h, r: (Counter(h) & Counter(r)).total() / len(h),
        [
            (lambda h, r: sum(word in r for word in h) / len(h), "repeated for ever"),
            (lambda h, r: (Counter(h) & Counter(r)).total() / len(r), "that is recall"),
            (lambda h, r: len({*h} & {*r}) / len({*h}), "different words only"),
            (lambda h, r: 0.5, "at most as often"),
        ],
    ),
}
WRONG = [(name, wrong, hint) for name, (_, wrongs) in EXERCISES.items() for wrong, hint in wrongs]


@pytest.mark.parametrize("name", EXERCISES)
def test_a_right_answer_is_right(name):
    result = getattr(generation, name)(EXERCISES[name][0])
    assert result.right and str(result).startswith(f"{name}: right. Tried with "), result


@pytest.mark.parametrize(("name", "answer", "hint"), WRONG, ids=[f"{name}-{hint}" for name, _, hint in WRONG])
def test_a_wrong_answer_is_wrong_and_its_hint_names_the_mistake(name, answer, hint):
    result = getattr(generation, name)(answer)
    assert not result and hint in str(result).split("  hint ")[1], result


@pytest.mark.parametrize("name", EXERCISES)
def test_an_empty_answer_is_met_kindly(name):
    assert "nothing to check yet" in str(getattr(generation, name)(lambda *args: ...))


def test_the_library_gives_the_right_answers_too():
    assert generation.tempered(probabilities)
    assert generation.top_p_kept(lambda p, top_p: probabilities(p.log(), top_p=top_p))
