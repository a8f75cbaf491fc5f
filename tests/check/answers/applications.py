"""Texts and their labels: right answers, and wrong ones with their hints."""

from __future__ import annotations

import math

import torch

from llmlab.check.applications import masked_mean, read_spans, span_f1, word_evidence
from llmlab.model.text_encoder import mean_pool


def evidence(praise, complaint, alpha, below=None):
    added = alpha * len(praise) if below is None else below
    p, q = ([(n + alpha) / (sum(counts) + added) for n in counts] for counts in (praise, complaint))
    return [math.log(a) - math.log(b) for a, b in zip(p, q, strict=True)]


def loop_mean(x, lengths):
    return torch.stack([row[:n].mean(0) for row, n in zip(x, lengths, strict=True)])


def read(tags, last=True, split=True, after=1, grow=True):
    found, start = [], None
    for place, tag in enumerate([*tags, "O"] if last else tags):
        if start is not None and (tag == "O" or (tag == "B" and split)):
            found.append([start, place if after else place - 1])
            start = None
        if tag == "B" and start is None:
            start = place
    return found if grow else [[a, a + 1] for a, _ in found]


def f1(truth, found):
    return 2 * len(truth & found) / (len(truth) + len(found))


def places(spans):
    return {span[1:] for span in spans}


RIGHT = [
    (word_evidence, evidence),
    (masked_mean, loop_mean),
    (masked_mean, mean_pool),
    (read_spans, read),
    (span_f1, f1),
]
WRONG = [
    (word_evidence, lambda p, c, alpha: evidence(p, c, alpha, 0), "add alpha for each word"),
    (word_evidence, lambda p, c, alpha: evidence(p, c, alpha, alpha), "each word of the vocabulary had it"),
    (word_evidence, lambda *a: [math.exp(x) for x in evidence(*a)], "take their logarithm"),
    (word_evidence, lambda p, c, alpha: evidence(c, p, alpha), "praise stands above"),
    (word_evidence, lambda *a: [x / math.log(2) for x in evidence(*a)], "take the natural one"),
    (word_evidence, lambda p, c, alpha: p, "ln of the ratio"),
    (masked_mean, lambda x, lengths: x.mean(1), "padding was averaged"),
    (masked_mean, lambda x, n: loop_mean(x, n) * n[:, None] / x.shape[1], "a length of its own"),
    (masked_mean, lambda x, n: loop_mean(x, n) * n[:, None], "divide by the lengths"),
    (masked_mean, lambda x, n: x[torch.arange(len(n)), n - 1], "the last vector only"),
    (masked_mean, lambda x, n: x[:, 0], "is the mask"),
    (read_spans, lambda tags: read(tags, after=0), "the place after it"),
    (read_spans, lambda tags: read(tags, split=False), "a B ends what stands before it"),
    (read_spans, lambda tags: read(tags, last=False), "close what is open"),
    (read_spans, lambda tags: read(tags, grow=False), "an I goes on"),
    (read_spans, lambda tags: [[0, 1]], "go through the tags"),
    (span_f1, lambda t, f: len(t & f) / len(f), "dares little"),
    (span_f1, lambda t, f: len(t & f) / len(t), "tags everything"),
    (span_f1, lambda t, f: (len(t & f) / len(f) + len(t & f) / len(t)) / 2, "punishes the weaker"),
    (span_f1, lambda t, f: len(t & f) / len(t | f), "Jaccard"),
    (span_f1, lambda t, f: 2 * len(places(t) & places(f)) / (len(t) + len(f)), "its kind belongs to it"),
    (span_f1, lambda t, f: 0.5, "2 right"),
]
