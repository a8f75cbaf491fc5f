"""Praise or complaint in sentences of English film reviews: from scratch, and with MiniLM's last layers trained."""

from __future__ import annotations

from collections.abc import Iterator

from reviewing import Reviews, Scratch, best_alpha, counted, from_scratch, pretrained
from scored import Score, stopwatch

DATA = "English film reviews (vaderSentiment)"
HOW = Scratch(vocab=8000, longest=48, rate=2e-3, epochs=4)
RATE, EPOCHS, TRAINED = 2e-4, 1, 2


def scores() -> Iterator[Score]:
    reviews = Reviews.of("vaderSentiment")
    with stopwatch() as counting:
        alpha = best_alpha(reviews)
        baseline = counted(reviews.known, reviews.test, alpha)
    beside = f"the baseline, words and pairs of them, alpha {alpha:g}, took {counting[0]:.0f} s"
    for seed in (0, 1, 2):
        with stopwatch() as taken:
            score = from_scratch(reviews.known, reviews.test, HOW, seed)
        yield Score(DATA, "accuracy, %", score, "naive Bayes", baseline, taken[0], seed, f"{HOW}; {beside}")
    with stopwatch() as taken:
        score = pretrained(reviews.known, reviews.test, RATE, EPOCHS, TRAINED, 0)
    settings = (
        f"MiniLM, its last {TRAINED} of 6 layers trained; AdamW {RATE:g}, epochs: {EPOCHS}, 32 texts of up to 64 "
        f"tokens a step; {beside}"
    )
    yield Score(DATA, "accuracy, %", score, "naive Bayes", baseline, taken[0], 0, settings)
