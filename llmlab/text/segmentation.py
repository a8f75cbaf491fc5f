"""Words: where blanks separate them, and where (in Chinese) nothing does."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import log

from llmlab.arguments import instance, string, whole

from .checks import checked_list

# Han characters as ranges of a character class: the ideographs with their extensions, 々 and 〇.
HAN = "\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
# With the marks that are set without blanks around them: 、 。 and the full-width forms.
UNSPACED = HAN + "\u3000-\u303f\uff00-\uffef"

_WORD = re.compile(rf"[{HAN}]|[^\W{HAN}]+(?:['’][^\W{HAN}]+)*|[^\w\s]")
_HAN_RUN = re.compile(f"([{HAN}]+)")
_UNSPACED = re.compile(f"[{UNSPACED}]")


def words(text: str) -> list[str]:
    """Cut text into words and single marks: "don't stop." -> don't, stop, and the full stop.

    Each Chinese character is a word of its own: a `Segmenter` knows better.
    """
    return _WORD.findall(string("words", "text", text))


def join_words(cut: Iterable[str]) -> str:
    """Put words side by side, a blank between them unless one of the two is Chinese."""
    text = ""
    for word in checked_list("the words to join", cut, "[word]"):
        blank = text and word and not _UNSPACED.match(text[-1]) and not _UNSPACED.match(word[0])
        text += f" {word}" if blank else word
    return text


class Segmenter:
    """Cut Chinese into words: of all ways to cut, the one whose words have the highest product of frequencies.

    This is the unigram model (Jurafsky and Martin, Speech and Language Processing, on word segmentation), solved by
    dynamic programming over where the last word begins. Call it as you would `words`; what is not Chinese is cut so.
    """

    def __init__(self, counts: Mapping[str, int]):
        """counts: how often each word occurs in text that people have cut."""
        instance("Segmenter", "counts", counts, Mapping, "write {word: count}")
        counts = {word: n for word, n in counts.items() if whole("Segmenter", f"the count of {word!r}", n, 0) and word}
        if not counts:
            raise ValueError("a Segmenter needs words with their counts, got none")
        total = sum(counts.values())
        self._cost = {word: log(total / n) for word, n in counts.items()}
        self._unseen = log(2 * total)  # a character never seen alone counts as half an occurrence
        self._longest = max(map(len, counts))

    @classmethod
    def train(cls, sentences: Iterable[Sequence[str]]) -> Segmenter:
        """Count the words of sentences that people have cut, such as those of `tagged` without their tags."""
        lists = (checked_list("a sentence", s, "its words") for s in checked_list("sentences", sentences, "[words]"))
        return cls(Counter(word for sentence in lists for word in sentence))

    def __call__(self, text: str) -> list[str]:
        runs = enumerate(_HAN_RUN.split(string("a Segmenter", "text", text)))  # every second one is Chinese
        return [word for i, run in runs for word in (self._cut(run) if i % 2 else words(run))]

    def _cut(self, run: str) -> list[str]:
        """Find the cheapest way through a run of Chinese; a cost is minus the logarithm of a frequency."""
        best, begin = [0.0], [0]  # of the text up to each place: its cost, and where its last word begins
        for end in range(1, len(run) + 1):
            starts = range(max(0, end - self._longest), end)
            costs = {start: best[start] + self._word_cost(run[start:end]) for start in starts}
            begin.append(min(costs, key=costs.__getitem__))
            best.append(costs[begin[-1]])
        cut, end = [], len(run)
        while end:
            cut.append(run[begin[end] : end])
            end = begin[end]
        return cut[::-1]

    def _word_cost(self, word: str) -> float:
        return self._cost.get(word, self._unseen if len(word) == 1 else float("inf"))
