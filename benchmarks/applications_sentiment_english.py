"""Praise or complaint in sentences of English film reviews: from scratch, and with MiniLM's last layers trained."""

from __future__ import annotations

import random
from collections.abc import Iterator

from reviewing import Reviews, Scratch, best_alpha, best_rate, counted, from_scratch, pretrained
from scored import Score, stopwatch

DATA = "English film reviews (vaderSentiment)"
SIZES = Scratch(vocab=8000, longest=48, rate=2e-3, epochs=4)
SEEDS = (0,)
RATE, MANY, EPOCHS, TRAINED = 2e-4, 4000, 1, 2  # of MiniLM, which is dear: one rate, and not on all texts


def scores() -> Iterator[Score]:
    reviews = Reviews.of("vaderSentiment")
    with stopwatch() as counting:
        alpha = best_alpha(reviews)
        baseline = counted(reviews.known, reviews.test, alpha)
    beside = f"the baseline, words and pairs of them, alpha {alpha:g}, took {counting[0]:.0f} s"
    with stopwatch() as choosing:
        how = best_rate(reviews, SIZES, epochs=2)
    chosen = f"the rate was chosen with half the texts on a part held out of them, in {choosing[0]:.0f} s"
    for seed in SEEDS:
        with stopwatch() as taken:
            score = from_scratch(reviews.known, reviews.test, how, seed)
        yield Score(DATA, "accuracy, %", score, "naive Bayes", baseline, taken[0], seed, f"{how}; {chosen}; {beside}")
    with stopwatch() as taken:
        many = random.Random(0).sample(reviews.known, MANY)
        score = pretrained(many, reviews.test, RATE, EPOCHS, TRAINED, 0)
    settings = (
        f"MiniLM, its last {TRAINED} of 6 layers trained; AdamW {RATE:g}, which was not tuned, epochs: {EPOCHS} "
        f"of {MANY} texts, 32 a step, of up to 64 tokens; {beside}"
    )
    yield Score(DATA, "accuracy, %", score, "naive Bayes", baseline, taken[0], 0, settings)
