"""Two searches in one: the scores of a search by words and of one by meaning, moved to one scale and summed.

    score = weight * unit(meanings) + (1 - weight) * unit(words)
    unit(s) = (s - min s) / (max s - min s)        over all texts, for one question

BM25's scores have no upper bound and a cosine is at most 1, so they are not summed as they are (Bruch, Gai and Ingber
2023, who find such a sum better than one of ranks, and a weight that a few questions suffice to choose).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from llmlab.arguments import instance, numbers, real, table, whole
from llmlab.text.ranking import best_first


@runtime_checkable
class Index(Protocol):
    """What can be fused: texts, and for a question a score of each. BM25 and Meanings are such."""

    texts: list[str]

    def scores(self, question: str) -> list[float]:
        """Score every text, in order."""


class Fused:
    """A search by words and one by meaning, of the same texts, as one. weight: the meaning's share, 0 to 1."""

    def __init__(self, words: Index, meanings: Index, weight: float = 0.5):
        """Raises ValueError for a weight outside 0 to 1, and for indexes of different texts."""
        self.words, self.meanings = _index("words", words), _index("meanings", meanings)
        self.weight = real("Fused", "weight", weight, least=0, most=1)
        if words.texts != meanings.texts:
            n, m = len(words.texts), len(meanings.texts)
            raise ValueError(f"Fused wants two indexes of the same texts in one order, got {n} and {m} that differ")

    def scores(self, question: str) -> list[float]:
        """Score every text, in order, 0 to 1."""
        return fuse(self.words.scores(question), self.meanings.scores(question), self.weight)

    def search(self, question: str, k: int = 5) -> list[int]:
        """Give the places of the `k` texts of the highest scores, the best first, ties in order."""
        whole("search", "k", k, least=1)
        return best_first(self.scores(question), k)


def fuse(words: Sequence[float], meanings: Sequence[float], weight: float) -> list[float]:
    """Sum two scores of each text, moved into 0 to 1 first; where one index scores all texts alike it says nothing."""
    real("fuse", "weight", weight, least=0, most=1)
    a, b = numbers("fuse", "words", words), numbers("fuse", "meanings", meanings)
    if len(a) != len(b) or not a:
        raise ValueError(f"fuse wants a score of words and one of meanings for each text, got {len(a)} and {len(b)}")
    return [weight * y + (1 - weight) * x for x, y in zip(_unit(a), _unit(b), strict=True)]


def _unit(scores: list[float]) -> list[float]:
    low, high = min(scores), max(scores)
    return [(score - low) / (high - low) if high > low else 0.0 for score in scores]


def mean_reciprocal_rank(ranks: Sequence[int | None]) -> float:
    """Average 1 / rank over questions, 0 to 1; None, for what is not found, counts 0."""
    if not ranks:
        raise ValueError("mean_reciprocal_rank wants a rank for each question, got none")
    found = [whole("mean_reciprocal_rank", "each rank", rank, least=1) for rank in ranks if rank is not None]
    return sum(1 / rank for rank in found) / len(ranks)


def leave_one_out(ranks: Mapping[float, Sequence[int | None]]) -> list[float]:
    """Choose a weight for each question by the mean reciprocal rank of all *others*, the first of equals.

    ranks: {weight: the rank at which each question's answer is found}.
    """
    found = table("leave_one_out", "ranks", ranks, "{weight: ranks}")
    counts = sorted({len(each) for each in found.values()})
    if len(counts) != 1 or counts[0] < 2:
        raise ValueError(f"leave_one_out wants ranks of the same two questions or more for each weight, got {counts}")
    others = [[*range(i), *range(i + 1, counts[0])] for i in range(counts[0])]
    return [max(found, key=lambda w: mean_reciprocal_rank([found[w][i] for i in some])) for some in others]


def _index(name: str, index: Index) -> Index:
    return instance("Fused", name, index, Index, "as BM25(texts) or Meanings(encoder, tokenizer, texts)")
