"""Summaries by choosing: which sentence of a text says most of what its summary says? Learned from texts and summaries.

    score(sentence) = w · features(sentence)         w solves  min  Σ (score - ROUGE-L)^2 + ridge |w|^2

The features are where the sentence stands and how long it is, how it begins, and which of the frequent words it has.
What it is asked for in training is its ROUGE-L beside the summary written by hand.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from llmlab.arguments import listing, real, string, whole
from llmlab.evaluate import rouge, rouge_words

MOST_SENTENCES = 12  # of a text; what stands further down seldom sums it up
_NO_PROSE = re.compile(r"\s*(>>>|\.\.\.|\+[-=]|[-=~]{3,}|\|)")  # doctests, rules and tables
_BORDER = re.compile(r"(?<=[.!?])\s+(?=[A-Z`:\[(])")


def sentences_of(text: str) -> list[str]:
    """Cut a docstring's body into sentences; doctests and tables are left out, and a paragraph ends a sentence.

    At least one: a text without any gives its beginning.
    """
    string("sentences_of", "text", text)
    prose = "\n".join(line for line in text.splitlines() if not _NO_PROSE.match(line))
    paragraphs = (" ".join(part.split()) for part in re.split(r"\n\s*\n", prose))
    found = [sentence for part in paragraphs for sentence in _BORDER.split(part) if re.search("[a-zA-Z]", sentence)]
    return found or [" ".join(text.split())[:200]]


class SentenceScorer:
    """Pick the sentence that is most like a summary."""

    def __init__(self, n_word: int = 1500, ridge: float = 10.0):
        """n_word: how many of the most frequent words are features.  ridge: how much large weights are held back."""
        self.n_word = whole("SentenceScorer", "n_word", n_word, least=0)
        self.ridge = real("SentenceScorer", "ridge", ridge, above=0)
        self.place: dict[str, int] = {}
        self.weights: Float[Tensor, " N"] | None = None

    def fit(self, pairs: Sequence[tuple[str, str]]) -> SentenceScorer:
        """Learn from (text, summary)."""
        pairs = listing("fit", "pairs", pairs, "(text, summary)")
        if not pairs:
            raise ValueError("fit wants pairs of text and summary, got none")
        frequent = Counter(word for text, _ in pairs for word in set(rouge_words(text))).most_common(self.n_word)
        self.place = {word: i for i, (word, _) in enumerate(frequent)}
        rows, wanted = [], []
        for text, summary in pairs:
            sentences = sentences_of(text)[:MOST_SENTENCES]
            rows.append(self.features(sentences))
            wanted += [rouge([sentence], [summary])["rougeL"] for sentence in sentences]
        x = torch.cat(rows).double()
        square = x.T @ x + self.ridge * torch.eye(x.shape[1], dtype=x.dtype)
        self.weights = torch.linalg.solve(square, x.T @ torch.tensor(wanted, dtype=x.dtype)).float()
        return self

    def features(self, sentences: Sequence[str]) -> Float[Tensor, "S N"]:
        """Describe each sentence of a text in numbers."""
        x = torch.zeros(len(sentences), N_SHAPE + 2 * len(self.place))
        for i, sentence in enumerate(sentences):
            cut = rouge_words(sentence)
            x[i, :N_SHAPE] = torch.tensor(_shape(i, len(sentences), sentence, len(cut)))
            known = [self.place[word] for word in cut if word in self.place]
            x[i, [N_SHAPE + place for place in known]] = 1 / math.sqrt(len(cut) or 1)
            if cut and cut[0] in self.place:
                x[i, N_SHAPE + len(self.place) + self.place[cut[0]]] = 1.0
        return x

    def scores(self, text: str) -> list[tuple[float, str]]:
        """Give (score, sentence) in the order of the text; the score is the ROUGE-L it is thought to have."""
        if self.weights is None:
            raise ValueError("a SentenceScorer wants to be fitted first, got none: scorer.fit(pairs)")
        sentences = sentences_of(text)[:MOST_SENTENCES]
        return list(zip((self.features(sentences) @ self.weights).tolist(), sentences, strict=True))

    def __call__(self, text: str) -> str:
        return max(self.scores(text), key=lambda scored: scored[0])[1]


def _shape(place: int, n: int, sentence: str, length: int) -> list[float]:
    """Where a sentence stands, how long it is and what it looks like."""
    size = math.log(length or 1)
    return [
        1.0, place == 0, place == 1, place == 2, 1 / (1 + place), place / n, n == 1,
        size, size**2, length < 4, length > 25, length > 40,
        sentence.endswith(":"), sentence.endswith("."), sentence[0].isupper(), "=" in sentence, ":param" in sentence,
        sentence.count("`") / 10, sentence.count("(") / 5,
    ]  # fmt: skip


N_SHAPE = len(_shape(0, 1, "a", 1))
