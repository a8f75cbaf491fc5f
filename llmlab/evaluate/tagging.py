"""Scores of labelled sequences, and what a dictionary reaches: spans written as BIO tags.

    He    met  Ada       Lovelace  in  London          B-  begins a span of that kind
    O     O    B-person  I-person  O   B-place         I-  goes on with it;  O  is outside

A span counts if its kind, its beginning and its end are all right (Tjong Kim Sang and De Meulder 2003), so one wrong
tag can cost a whole span: accuracy by tag, most of which are O, would hide that.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from llmlab.arguments import listing, string

Span = tuple[str, int, int]  # kind, first place, the place after the last


@dataclass(frozen=True)
class SpanScore:
    """Counts of spans, from which all three scores follow: 0 to 1, and 0 where there is nothing to divide by."""

    right: int
    predicted: int
    true: int

    @property
    def precision(self) -> float:
        return self.right / self.predicted if self.predicted else 0.0

    @property
    def recall(self) -> float:
        return self.right / self.true if self.true else 0.0

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall: 2 right / (predicted + true)."""
        return 2 * self.right / (self.predicted + self.true) if self.predicted + self.true else 0.0


def spans(tags: Sequence[str]) -> list[Span]:
    """Read the spans out of BIO tags. An I that goes on with nothing of its kind begins a span, as in `conlleval`.

    Raises: ValueError for what is no such tag.
    """
    found: list[Span] = []
    start, kind = 0, ""
    for place, tag in enumerate([*listing("spans", "tags", tags, "BIO tags"), "O"]):
        letter, _, name = string("spans", "each tag", tag).partition("-")
        if letter not in ("B", "I", "O") or (letter == "O") == bool(name):
            raise ValueError(f"a BIO tag is O, B-kind or I-kind, got {tag!r} at place {place}")
        if letter == "I" and name == kind:
            continue
        if kind:
            found.append((kind, start, place))
        start, kind = place, name
    return found


def span_scores(truth: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> dict[str, SpanScore]:
    """Score sequences of BIO tags: {"all": ..., then each kind: ...}.

    "all" adds the counts up before it divides (micro average), so a frequent kind weighs more than a rare one.
    Raises: ValueError for another number of sequences or of tags.
    """
    pairs = list(zip(_rows("truth", truth), _rows("predicted", predicted), strict=False))
    if len(truth) != len(predicted) or any(len(a) != len(b) for a, b in pairs):
        raise ValueError("span_scores wants a predicted tag for each true one, got sequences of other lengths")
    right, guessed, true = Counter[str](), Counter[str](), Counter[str]()
    for a, b in pairs:
        here, there = set(spans(a)), set(spans(b))
        for counts, found in ((right, here & there), (guessed, there), (true, here)):
            counts.update(kind for kind, _, _ in found)
    kinds = {kind: SpanScore(right[kind], guessed[kind], true[kind]) for kind in sorted(true | guessed)}
    return {"all": SpanScore(right.total(), guessed.total(), true.total()), **kinds}


class MostFrequentTag:
    """Tag each word as it was tagged most often; a word never met, as unmet words are: with `unknown`."""

    def __init__(self, sentences: Sequence[Sequence[tuple[str, str]]], unknown: str = "O"):
        """sentences: lists of (word, tag). Of tags equally frequent, the first in the alphabet."""
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        for sentence in listing("MostFrequentTag", "sentences", sentences, "[(word, tag)]"):
            for word, tag in sentence:
                counts[word][tag] += 1
        if not counts:
            raise ValueError("MostFrequentTag wants words with their tags, got none")
        self.unknown = string("MostFrequentTag", "unknown", unknown)
        self.best = {word: _most_frequent(found) for word, found in counts.items()}

    def predict(self, words: Sequence[str]) -> list[str]:
        """Give a tag per word."""
        return [self.best.get(word, self.unknown) for word in listing("MostFrequentTag", "words", words, "words")]


def _most_frequent(counts: Counter[str]) -> str:
    return min(counts, key=lambda tag: (-counts[tag], tag))


def _rows(name: str, sequences: Sequence[Sequence[str]]) -> list[list[str]]:
    return [listing("span_scores", f"each of {name}", tags, "BIO tags") for tags in sequences]
