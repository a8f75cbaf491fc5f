"""What counting reaches: the Kneser-Ney n-gram model, the yardstick of language models before neural ones.

    P(w | h) = (c(h w) - D) / c(h)  +  D N(h .) / c(h) * P(w | h')        h': h without its first token

c counts occurrences at the highest order; at the lower ones, in how many different contexts `h w` was met (Kneser and
Ney 1995), and below them all every token is equally likely. N(h .): how many different tokens follow h. The discount D
depends on whether the count is 1, 2 or more (Chen and Goodman 1998, section 3: "modified", interpolated).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from llmlab.arguments import listing, whole

Codes = Int64[np.ndarray, " N"]  # n-grams, each written as one number in base `vocab_size + 1`


@dataclass(frozen=True)
class Level:
    """Probabilities of one order, up to what is handed down: those of an n-gram, and the shares left per context."""

    ngrams: Codes  # sorted
    share: Float64[np.ndarray, " N"]  # (c(h w) - D) / c(h)
    contexts: Codes  # sorted
    rest: Float64[np.ndarray, " M"]  # D N(h .) / c(h)


class KneserNey:
    """An n-gram model of documents of token ids. A document's first token is given, never predicted."""

    def __init__(self, documents: Sequence[Sequence[int]], vocab_size: int, order: int = 2):
        """Count. order: 2 for bigrams, 3 for trigrams. Raises ValueError for ids outside the vocabulary and no text."""
        documents = listing("KneserNey", "documents", documents, "documents, each a list of token ids")
        self.vocab_size = whole("KneserNey", "vocab_size", vocab_size, least=1)
        self.order = whole("KneserNey", "order", order)
        if order < 2 or (vocab_size + 1) ** order >= 2**63:
            most = int(63 * math.log(2) / math.log(vocab_size + 1))
            raise ValueError(f"order wants 2 to {most} for a vocabulary of {vocab_size}, got {order}")
        ngrams, counts = np.unique(self._codes(documents), return_counts=True)
        self.levels: list[Level] = []  # from the highest order down
        for n in range(order, 0, -1):
            self.levels.append(self._level(ngrams, counts))
            # the next order counts in how many contexts an n-gram was met: once per n-gram that ends with it
            ngrams, counts = np.unique(ngrams % (vocab_size + 1) ** (n - 1), return_counts=True)

    def log_probabilities(self, documents: Sequence[Sequence[int]]) -> Float64[np.ndarray, " N"]:
        """Give ln P of each token after its document's first, in order."""
        codes = self._codes(documents)
        p = np.full(len(codes), 1 / self.vocab_size)
        for n, level in enumerate(reversed(self.levels), start=1):
            ngram = codes % (self.vocab_size + 1) ** n
            context = ngram // (self.vocab_size + 1)
            p = _look_up(level.ngrams, level.share, ngram, 0.0) + _look_up(level.contexts, level.rest, context, 1.0) * p
        return np.log(p)

    def mean_loss(self, documents: Sequence[Sequence[int]]) -> float:
        """Compute the cross-entropy in nats per token, first tokens of documents left out."""
        return -float(self.log_probabilities(documents).mean())

    def _codes(self, documents: Sequence[Sequence[int]]) -> Codes:
        """Write each token after a document's first, with its context, as one number.

        A context that reaches over the document's beginning has an id there that is no token's.
        """
        base = self.vocab_size + 1
        found = []
        for document in documents:
            ids = np.asarray(document)
            if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
                raise ValueError(f"documents want lists of whole numbers, token ids; got {document!r:.60}")
            ids = ids.astype(np.int64)
            if len(ids) and not (0 <= ids.min() and ids.max() < self.vocab_size):
                raise ValueError(f"token ids want 0 to {self.vocab_size - 1}, got {ids.min()} to {ids.max()}")
            ids = np.concatenate([np.full(self.order - 2, self.vocab_size), ids])
            windows = max(0, len(ids) - self.order + 1)
            codes = np.zeros(windows, dtype=np.int64)
            for i in range(self.order):
                codes = codes * base + ids[i : i + windows]
            found.append(codes)
        if not sum(map(len, found)):
            raise ValueError("an n-gram model wants documents of at least two tokens, got none")
        return np.concatenate(found)

    def _level(self, ngrams: Codes, counts: Codes) -> Level:
        taken = discounts(counts)[np.minimum(counts, 3)]
        contexts, start = np.unique(ngrams // (self.vocab_size + 1), return_index=True)
        total = np.add.reduceat(counts, start)
        share = (counts - taken) / np.repeat(total, np.diff([*start, len(ngrams)]))
        return Level(ngrams, share, contexts, np.add.reduceat(taken, start) / total)


def discounts(counts: Codes) -> Float64[np.ndarray, " D"]:
    """Estimate what is taken from a count of 1, of 2 and of 3 or more; entry 0 is unused.

    n_i is how many counts are i; Y = n_1 / (n_1 + 2 n_2);  D_i = i - (i + 1) Y n_{i+1} / n_i  (Chen and Goodman 1998,
    section 3.1). Where too little text leaves some n_i at 0, half a count is taken from each.
    """
    n1, n2, n3, n4 = (int((counts == i).sum()) for i in range(1, 5))
    if not (n1 and n2 and n3 and n4):
        return np.array([0.0, 0.5, 0.5, 0.5])
    y = n1 / (n1 + 2 * n2)
    estimate = np.array([0.0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])
    return estimate.clip(0.0, [0.0, 1.0, 2.0, 3.0])


def _look_up(
    keys: Codes, values: Float64[np.ndarray, " N"], wanted: Codes, missing: float
) -> Float64[np.ndarray, " M"]:
    """Give the value of each wanted key, or `missing`; the keys are sorted."""
    place = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], missing)
