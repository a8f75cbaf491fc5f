"""What a translator must beat, from pairs of sentences: a translation memory, and a glossary. Neither learns."""

from __future__ import annotations

from collections.abc import Sequence

from llmlab.arguments import listing
from llmlab.evaluate import rouge
from llmlab.text.ranking import BM25, lower_words
from llmlab.text.segmentation import join_words, words

Pair = tuple[str, str]


class TranslationMemory:
    """What translators' programs have had for decades: the translation of the most similar sentence known."""

    def __init__(self, pairs: Sequence[Pair]):
        self.pairs = checked_pairs("TranslationMemory", pairs)
        self._index = BM25([source for source, _ in self.pairs])

    def candidates(self, text: str, k: int = 10) -> list[Pair]:
        """Give the known sentences that share most of the rare words, the nearest first, with their translations."""
        return [self.pairs[i] for i in self._index.search(text, k)]

    def nearest(self, text: str) -> Pair:
        """Give the nearest of them."""
        return self.candidates(text, 1)[0]

    def most_alike(self, text: str, k: int = 10) -> Pair:
        """Give of the `k` nearest the one whose sentence has most of this one's words in this order (ROUGE-L)."""
        return max(self.candidates(text, k), key=lambda pair: rouge([text], [pair[0]])["rougeL"])

    def __call__(self, text: str) -> str:
        return self.nearest(text)[1]


class Glossary:
    """Word by word: each word as the pairs whose source is that word alone translate it; others stay as they are."""

    def __init__(self, pairs: Sequence[Pair]):
        alone = [(lower_words(source), target) for source, target in checked_pairs("Glossary", pairs)]
        self.entries: dict[str, str] = {}
        for cut, target in alone:
            if len(cut) == 1:
                self.entries.setdefault(cut[0], target)

    def __call__(self, text: str) -> str:
        return join_words(self.entries.get(word.lower(), word) for word in words(text))


def checked_pairs(call: str, pairs: Sequence[Pair]) -> Sequence[Pair]:
    pairs = listing(call, "pairs", pairs, "(source, target)")
    for pair in pairs:
        if not isinstance(pair, tuple) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise ValueError(f"{call} wants pairs of texts, (source, target); got {pair!r:.60}")
    return pairs
