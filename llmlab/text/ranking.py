"""Which texts share the words of a question? BM25, the yardstick of search before neural networks.

    score = sum over the question's words of  idf * n (k + 1) / (n + k (1 - b + b * length / mean length))
    idf   = ln(1 + (N - d + 1/2) / (d + 1/2))        N texts, d of them with the word; n: how often this text has it

A rare word counts more, a second occurrence counts less than the first, and a long text is no better for being long
(Robertson and Zaragoza 2009, section 3.4, with Lucene's idf, which is never negative).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from math import log

from llmlab.arguments import function, real, string, whole

from .checks import checked_documents
from .segmentation import words


def lower_words(text: str) -> list[str]:
    """Cut text into words in lower case, without marks."""
    return [word for word in words(text.lower()) if word[0].isalnum() or word[0] == "_"]


class BM25:
    """Texts, kept so that those which share a question's words are found quickly."""

    def __init__(
        self, texts: Iterable[str], cut: Callable[[str], list[str]] = lower_words, k: float = 1.2, b: float = 0.75
    ):
        """k: how soon more occurrences of a word stop to count.  b: how much length counts, 0 to 1."""
        self.texts = list(checked_documents(texts))
        self.cut = function("BM25", "cut", cut, "text")
        real("BM25", "k", k, least=0)
        real("BM25", "b", b, least=0, most=1)
        if not self.texts:
            raise ValueError("BM25 wants texts to search in, got none")
        counts = [Counter(cut(text)) for text in self.texts]
        mean = sum(count.total() for count in counts) / len(counts) or 1.0
        with_word = Counter(word for count in counts for word in count)
        self._idf = {word: log(1 + (len(counts) - d + 0.5) / (d + 0.5)) for word, d in with_word.items()}
        self._shares: defaultdict[str, list[tuple[int, float]]] = defaultdict(list)  # word -> (text, what it adds)
        for i, count in enumerate(counts):
            longer = k * (1 - b + b * count.total() / mean)
            for word, n in count.items():
                self._shares[word].append((i, self._idf[word] * n * (k + 1) / (n + longer)))

    def scores(self, question: str) -> list[float]:
        """Score every text, in order; 0 for one that shares no word."""
        scores = [0.0] * len(self.texts)
        for word, times in Counter(self.cut(string("BM25", "question", question))).items():
            for i, share in self._shares.get(word, ()):
                scores[i] += times * share
        return scores

    def search(self, question: str, k: int = 5) -> list[int]:
        """Give the places of the `k` texts of the highest scores, the best first, ties in order."""
        whole("search", "k", k, least=1)
        return best_first(self.scores(question), k)


def best_first(scores: Sequence[float], k: int) -> list[int]:
    """Give the places of the `k` highest scores, the best first, ties in order."""
    return sorted(range(len(scores)), key=lambda i: -scores[i])[:k]
