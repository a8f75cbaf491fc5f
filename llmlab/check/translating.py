"""Exercises of notebook 07b: a leaking split, what a decoder is given, ROUGE-L, chrF's mean, F1 of words, hit@k."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from llmlab.check.examine import Case, Result, examine
from llmlab.evaluate import common_subsequence


def leaked_sources(answer: Callable[..., Any]) -> Result:
    """`answer(train, test)`: how many of the test's pairs have a source that the training pairs have too."""
    hint = "put the sources of the training pairs into a set, and count the test's pairs whose source is in it."
    return examine("leaked_sources", answer, _leaked(answer), hint)


def _leaked(answer: Any) -> Iterator[Case]:
    train = [("open", "打开"), ("open", "开启"), ("close", "关闭"), ("save", "保存")]
    for test in (
        [("open", "打开"), ("shut", "关闭"), ("end", "关闭"), ("stop", "关闭"), ("close", "合上"), ("open", "开")],
        [("quit", "保存"), ("save", "存储")],
        [("run", "运行")],
    ):
        sources, targets = {source for source, _ in train}, {target for _, target in train}
        mistakes = [
            (len(set(test) & set(train)), "only pairs that are wholly equal: a source with another translation leaks."),
            (len({s for s, _ in test} & sources), "different sources: count the test's pairs, each of them."),
            (sum(t in targets for _, t in test), "translations are compared: what leaks is the source, the first."),
        ]
        right = sum(source in sources for source, _ in test)
        yield Case(f"{len(test)} pairs to test", partial(answer, list(train), list(test)), right, mistakes)


def shifted(answer: Callable[..., Any]) -> Result:
    """`answer(tokens, begin, end)`: what the decoder is given and what it must say, two lists of the same length."""
    hint = "given: begin and the tokens; wanted: the tokens and end."
    return examine("shifted", answer, _shifted(answer), hint)


def _shifted(answer: Any) -> Iterator[Case]:
    for tokens, begin, end in (([5, 6, 7], 0, 1), ([4], 8, 9), ([], 2, 3)):
        given, wanted = [begin, *tokens], [*tokens, end]
        mistakes = [
            ((wanted, given), "the wrong way round: what is given comes first."),
            ((wanted, wanted), "the decoder would read what it is asked for: give it the token before."),
            (([begin, *tokens, end], [begin, *tokens, end]), "it would only copy: shift the two by one place."),
            ((tokens, tokens[1:] + [end]), "the first token is never asked for: begin stands before it."),
        ]
        yield Case(f"tokens {tokens}", partial(answer, list(tokens), begin, end), (given, wanted), mistakes)


def longest_in_both(answer: Callable[..., Any]) -> Result:
    """`answer(a, b)`: how many words the longest sequence has that stands in both lists, in order, gaps allowed."""
    hint = "a table: L[i][j] = L[i-1][j-1] + 1 where the words are equal, else the larger of L[i-1][j] and L[i][j-1]."
    return examine("longest_in_both", answer, _longest(answer), hint)


def _longest(answer: Any) -> Iterator[Case]:
    for a, b in (
        ("return the index of the word", "return the word of the index"),
        ("a b c d", "a x b y c z"),
        ("b a", "a b"),
        ("one", "two"),
    ):
        one, two = a.split(), b.split()
        mistakes = [
            (
                (Counter(one) & Counter(two)).total(),
                "common words in any order, as ROUGE-1: order counts here.",
            ),
            (_run(one, two), "a run without gaps: other words may stand between."),
            (2 * common_subsequence(one, two) / (len(one) + len(two)), "that is F1: give the number of words."),
        ]
        yield Case(f"{a!r} and {b!r}", partial(answer, one, two), common_subsequence(one, two), mistakes)


def _run(a: list[str], b: list[str]) -> int:
    """The longest run of words without gaps that is in both."""
    runs = {tuple(b[i:j]) for i in range(len(b)) for j in range(i + 1, len(b) + 1)}
    return max((j - i for i in range(len(a)) for j in range(i + 1, len(a) + 1) if tuple(a[i:j]) in runs), default=0)


def weighted_mean(answer: Callable[..., Any]) -> Result:
    """`answer(precision, recall, beta)`: chrF's mean of the two, in which recall counts beta times as much."""
    hint = "(1 + beta^2) P R / (beta^2 P + R), and 0 where both are 0."
    return examine("weighted_mean", answer, _weighted(answer), hint)


def _weighted(answer: Any) -> Iterator[Case]:
    for p, r, beta in ((0.5, 0.25, 2.0), (0.9, 0.3, 1.0), (0.2, 0.8, 3.0), (0.0, 0.0, 2.0)):
        square = beta**2

        def mean(p: float, r: float, square: float) -> float:
            return (1 + square) * p * r / (square * p + r) if p or r else 0.0

        mistakes = [
            (mean(r, p, square), "precision counts more so: the weight stands at the other one, square beta beside P."),
            (mean(p, r, beta), "beta is squared in the formula: a weight of beta would count less."),
            ((p + square * r) / (1 + square), "an arithmetic mean, high where one of them is: take the harmonic one."),
            (mean(p, r, 1.0), "that is F1: beta is not used."),
        ]
        yield Case(f"P {p}, R {r}, beta {beta:g}", partial(answer, p, r, beta), mean(p, r, square), mistakes)


def words_f1(answer: Callable[..., Any]) -> Result:
    """`answer(said, wanted)`: F1 of the words of two lists, 0 to 1, each word as often as it stands in both."""
    hint = "2 * common / (len(said) + len(wanted)), common counted by (Counter(said) & Counter(wanted)).total()."
    return examine("words_f1", answer, _words_f1(answer), hint)


def _words_f1(answer: Any) -> Iterator[Case]:
    for a, b in (("the last item", "last item"), ("very very very good", "very good"), ("no", "yes"), ("x", "x y z")):
        said, wanted = a.split(), b.split()
        both = (Counter(said) & Counter(wanted)).total()
        repeated = sum(word in wanted for word in said)
        mistakes = [
            (both / len(said), "that is precision: a longer answer is not held against the wanted words."),
            (both / len(wanted), "that is recall: saying everything would be the best answer."),
            (2 * repeated / (len(said) + len(wanted)), "a word said again and again counts only as often as wanted."),
            (float(said == wanted), "that is exact match: words in common count."),
        ]
        right = 2 * both / (len(said) + len(wanted))
        yield Case(f"{a!r}, wanted {b!r}", partial(answer, said, wanted), right, mistakes)


def hits_at(answer: Callable[..., Any]) -> Result:
    """`answer(found, right, k)`: the share of questions whose right passage is among the first k found, 0 to 1."""
    hint = "sum(r in f[:k] for f, r in zip(found, right)) / len(right)."
    return examine("hits_at", answer, _hits(answer), hint)


def _hits(answer: Any) -> Iterator[Case]:
    found, right = [[3, 1, 4], [0, 2, 9], [6, 5, 7], [8, 0, 1]], [1, 0, 6, 3]
    for k in (1, 2, 3):
        hits = [r in f[:k] for f, r in zip(found, right, strict=True)]
        mistakes = [
            (
                sum(f[k - 1] == r for f, r in zip(found, right, strict=True)) / 4,
                "place k only: those before count.",
            ),
            (sum(hits), "a number of questions: divide by how many there are."),
            (sum(hits) / (4 * k), "divided by all passages looked at: a question has one right passage."),
            (sum(r in f for f, r in zip(found, right, strict=True)) / 4, "all places: cut the list after k."),
        ]
        rows = [list(row) for row in found]
        yield Case(f"k {k}", partial(answer, rows, list(right), k), sum(hits) / 4, mistakes)
