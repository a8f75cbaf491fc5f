"""Translation, summaries and answers: right answers, and wrong ones with their hints."""

from __future__ import annotations

from collections import Counter

from llmlab.check.translating import hits_at, leaked_sources, longest_in_both, shifted, weighted_mean, words_f1
from llmlab.evaluate import common_subsequence


def leaks(train, test):
    sources = {source for source, _ in train}
    return sum(source in sources for source, _ in test)


def by_recursion(a, b):
    if not a or not b:
        return 0
    if a[-1] == b[-1]:
        return by_recursion(a[:-1], b[:-1]) + 1
    return max(by_recursion(a[:-1], b), by_recursion(a, b[:-1]))


def mean(p, r, beta):
    return (1 + beta**2) * p * r / (beta**2 * p + r) if p or r else 0.0


def common(a, b):
    return (Counter(a) & Counter(b)).total()


def share(found, right, k):
    return sum(r in f[:k] for f, r in zip(found, right, strict=True)) / len(right)


RIGHT = [
    (leaked_sources, leaks),
    (shifted, lambda tokens, begin, end: ([begin, *tokens], [*tokens, end])),
    (longest_in_both, by_recursion),
    (longest_in_both, common_subsequence),
    (weighted_mean, mean),
    (words_f1, lambda a, b: 2 * common(a, b) / (len(a) + len(b))),
    (hits_at, share),
]
WRONG = [
    (leaked_sources, lambda train, test: len(set(train) & set(test)), "wholly equal"),
    (leaked_sources, lambda train, test: len({s for s, _ in train} & {s for s, _ in test}), "each of them"),
    (leaked_sources, lambda train, test: sum(t in {x for _, x in train} for _, t in test), "translations are compared"),
    (leaked_sources, lambda train, test: 1, "into a set"),
    (shifted, lambda tokens, begin, end: ([*tokens, end], [begin, *tokens]), "wrong way round"),
    (shifted, lambda tokens, begin, end: ([*tokens, end], [*tokens, end]), "the token before"),
    (shifted, lambda tokens, begin, end: ([begin, *tokens, end], [begin, *tokens, end]), "shift the two"),
    (shifted, lambda tokens, begin, end: (tokens, tokens[1:] + [end]), "begin stands before it"),
    (longest_in_both, common, "in any order"),
    (longest_in_both, lambda a, b: 2 * common_subsequence(a, b) / (len(a) + len(b)), "that is F1"),
    (longest_in_both, lambda a, b: 7, "a table"),
    (weighted_mean, lambda p, r, beta: mean(r, p, beta), "precision counts more"),
    (weighted_mean, lambda p, r, beta: mean(p, r, beta**0.5), "beta is squared"),
    (weighted_mean, lambda p, r, beta: (p + beta**2 * r) / (1 + beta**2), "an arithmetic mean"),
    (weighted_mean, lambda p, r, beta: mean(p, r, 1), "beta is not used"),
    (words_f1, lambda a, b: common(a, b) / len(a), "that is precision"),
    (words_f1, lambda a, b: common(a, b) / len(b), "that is recall"),
    (words_f1, lambda a, b: 2 * sum(x in b for x in a) / (len(a) + len(b)), "again and again"),
    (words_f1, lambda a, b: float(a == b), "exact match"),
    (hits_at, lambda f, r, k: sum(x[k - 1] == y for x, y in zip(f, r, strict=True)) / len(r), "place k only"),
    (hits_at, lambda f, r, k: share(f, r, k) * len(r), "divide by how many"),
    (hits_at, lambda f, r, k: share(f, r, k) / k, "divided by all passages"),
    (hits_at, lambda f, r, k: share(f, r, 9), "cut the list"),
]
