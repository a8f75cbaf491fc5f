"""Praise or complaint in sentences of English film reviews: from scratch, and with MiniLM's last layers trained."""

from __future__ import annotations

import random
from collections.abc import Iterator

from reviewing import Reviews, Scratch, best_alpha, best_rate, counted, from_scratch, pretrained
from scored import Score, stopwatch

DATA = "English film reviews (vaderSentiment)"
SIZES = Scratch(vocab=8000, longest=48, rate=2e-3, epochs=4)
FINE_RATES, FEW, MANY, EPOCHS, TRAINED = (1e-4, 3e-4), 600, 5000, 1, 2  # of MiniLM, which is dear: not on all texts


def scores() -> Iterator[Score]:
    reviews = Reviews.of("vaderSentiment")
    with stopwatch() as counting:
        alpha = best_alpha(reviews)
        baseline = counted(reviews.known, reviews.test, alpha)
    beside = f"the baseline, words and pairs of them, alpha {alpha:g}, took {counting[0]:.0f} s"
    with stopwatch() as choosing:
        how = best_rate(reviews, SIZES, epochs=2)
        few = random.Random(0).sample(reviews.train, FEW)
        rate = max(FINE_RATES, key=lambda rate: pretrained(few, reviews.choose[::3], rate, EPOCHS, TRAINED, 0))
    beside += f"; rates were chosen on a part held out of the training texts, in {choosing[0]:.0f} s"
    for seed in (0, 1, 2):
        with stopwatch() as taken:
            score = from_scratch(reviews.known, reviews.test, how, seed)
        yield Score(DATA, "accuracy, %", score, "naive Bayes", baseline, taken[0], seed, f"{how}; {beside}")
    with stopwatch() as taken:
        many = random.Random(0).sample(reviews.known, MANY)
        score = pretrained(many, reviews.test, rate, EPOCHS, TRAINED, 0)
    settings = (
        f"MiniLM, its last {TRAINED} of 6 layers trained; AdamW {rate:g} of {FINE_RATES}, epochs: {EPOCHS} "
        f"of {MANY} texts, 32 a step, of up to 64 tokens; {beside}"
    )
    yield Score(DATA, "accuracy, %", score, "naive Bayes", baseline, taken[0], 0, settings)
