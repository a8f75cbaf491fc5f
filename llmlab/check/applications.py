"""Exercises of notebook 07a: what a word says of a class, a mean without padding, spans out of tags, and their F1."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from llmlab.check.examine import Case, Result, examine
from llmlab.evaluate.tagging import spans


def word_evidence(answer: Callable[..., Any]) -> Result:
    """`answer(praise, complaint, alpha)`: for each word ln P(word | praise) - ln P(word | complaint), from its counts.

    praise, complaint: lists, how often each word of the vocabulary stands in texts of that class.
    """
    hint = "P = (count + alpha) / (sum of the class's counts + alpha x number of words); ln of the ratio of the two."
    return examine("word_evidence", answer, _evidence(answer), hint)


def _evidence(answer: Any) -> Iterator[Case]:
    for praise, complaint, alpha in (
        ([2, 1, 0, 0], [0, 0, 2, 1], 1.0),
        ([9, 4, 0], [1, 4, 1], 0.5),
        ([1, 6], [2, 0], 2),
    ):
        right = _log_ratio(praise, complaint, alpha, alpha * len(praise))
        mistakes = [
            (
                _log_ratio(praise, complaint, alpha, 0),
                "what was added above is missing below: add alpha for each word.",
            ),
            (
                _log_ratio(praise, complaint, alpha, alpha),
                "below stands alpha once: each word of the vocabulary had it.",
            ),
            ([math.exp(x) for x in right], "these are ratios: take their logarithm, so that evidence adds up."),
            ([-x for x in right], "the wrong way round: praise stands above, complaint below."),
            ([x / math.log(2) for x in right], "a logarithm to base 2: take the natural one."),
        ]
        run = partial(answer, list(praise), list(complaint), alpha)
        yield Case(f"{praise} and {complaint}, alpha {alpha:g}", run, right, mistakes)


def _log_ratio(a: list[int], b: list[int], alpha: float, below: float) -> list[float]:
    p, q = ([(n + alpha) / (sum(counts) + below) for n in counts] for counts in (a, b))
    return [math.log(x / y) for x, y in zip(p, q, strict=True)]


def masked_mean(answer: Callable[..., Any]) -> Result:
    """`answer(x, lengths)`: the mean of each text's own vectors, the others are padding. x: [B, T, D]."""
    hint = "torch.arange(T) < lengths[:, None] is the mask; multiply, sum over T, divide by lengths[:, None]."
    return examine("masked_mean", answer, _means(answer), hint)


def _means(answer: Any) -> Iterator[Case]:
    for lengths in ([3, 1], [2, 4, 1]):
        generator = torch.Generator().manual_seed(len(lengths))
        B, T = len(lengths), max(lengths)
        x = torch.randn(B, T, 2, generator=generator, dtype=torch.float64)
        own = (torch.arange(T) < torch.tensor(lengths)[:, None])[:, :, None]
        total, n = (x * own).sum(1), torch.tensor(lengths)[:, None]
        mistakes = [
            (x.mean(1), "padding was averaged, too: leave out what lies behind each text's length."),
            (total / T, "divided by the longest: each text has a length of its own."),
            (total, "sums: divide by the lengths."),
            (
                torch.stack([row[k - 1] for row, k in zip(x, lengths, strict=True)]),
                "the last vector only: the mean is asked.",
            ),
        ]
        what = f"lengths {', '.join(map(str, lengths))}"
        yield Case(what, partial(answer, x.clone(), torch.tensor(lengths)), total / n, mistakes)


def read_spans(answer: Callable[..., Any]) -> Result:
    """`answer(tags)`: the spans in a list of B, I and O, as a list of [first place, place after the last]."""
    hint = "go through the tags, with an O put behind them: B or O closes an open span, B opens one."
    return examine("read_spans", answer, _read(answer), hint)


def _read(answer: Any) -> Iterator[Case]:
    for text in ("B I O B", "B B I O", "O B I I"):
        tags = text.split()
        right = [[start, stop] for _, start, stop in spans([tag if tag == "O" else f"{tag}-x" for tag in tags])]
        joined = "".join("x" if tag != "O" else "O" for tag in tags)
        mistakes = [
            ([[a, b - 1] for a, b in right], "the last place of each: asked is the place after it, as in tags[a:b]."),
            (_runs(joined), "two spans side by side became one: a B ends what stands before it."),
            (
                right[: len(right) - (tags[-1] != "O")],
                "the span at the end is missing: close what is open when tags end.",
            ),
            ([[a, a + 1] for a, _ in right], "only the beginnings: an I goes on with the span."),
        ]
        yield Case(text, partial(answer, list(tags)), right, mistakes)


def _runs(joined: str) -> list[list[int]]:
    edges = [i for i in range(len(joined) + 1) if (joined[i : i + 1] == "x") != (i > 0 and joined[i - 1] == "x")]
    return [[a, b] for a, b in zip(edges[::2], edges[1::2], strict=True)]


def span_f1(answer: Callable[..., Any]) -> Result:
    """`answer(truth, predicted)`, two sets of (kind, start, stop): F1, which is 0 where nothing is right."""
    hint = "right = len(truth & predicted); 2 right / (len(truth) + len(predicted)), and 0 if both are empty."
    return examine("span_f1", answer, _f1(answer), hint)


def _f1(answer: Any) -> Iterator[Case]:
    a, b, c, d = ("place", 0, 2), ("person", 4, 6), ("place", 8, 9), ("place", 4, 6)
    for truth, found in (({a, b, c}, {a, d}), ({a}, {a, b, c, d}), ({a, b}, {c}), ({b, c}, {b, c})):
        right, n, m = len(truth & found), len(truth), len(found)
        precision, recall = right / m, right / n
        places = len({x[1:] for x in truth} & {x[1:] for x in found})
        mistakes = [
            (precision, "precision alone: a model that dares little would win."),
            (recall, "recall alone: a model that tags everything would win."),
            ((precision + recall) / 2, "the arithmetic mean: the harmonic one punishes the weaker of the two."),
            (right / len(truth | found), "that is the Jaccard index: count what both have twice, above and below."),
            (2 * places / (n + m), "a span of the wrong kind counted as right: its kind belongs to it."),
        ]
        run, expected = partial(answer, set(truth), set(found)), 2 * right / (n + m)
        yield Case(f"{n} true, {m} predicted, {right} of them right", run, expected, mistakes)
