"""Praise or complaint in sentences of English film reviews: from scratch, and with MiniLM's last layers trained."""

from __future__ import annotations

import random
from collections.abc import Iterator

from reviewing import Reviews, Scratch, counted, pretrained, scratch_scores
from scored import Score, stopwatch

DATA = "English film reviews (vaderSentiment)"
HOW = Scratch(vocab=8000, longest=48, rate=2e-3, epochs=4)
ALPHA = 0.3
RATE, MANY, EPOCHS, TRAINED = 2e-4, 8000, 1, 2  # of MiniLM, which is dear: not on all texts


def scores() -> Iterator[Score]:
    reviews = Reviews.of("vaderSentiment")
    yield from scratch_scores(DATA, reviews, HOW, ALPHA, seeds=(0, 1, 2))
    baseline = counted(reviews.known, reviews.test, ALPHA)
    many = random.Random(0).sample(reviews.known, MANY)
    with stopwatch() as taken:
        score = pretrained(many, reviews.test, RATE, EPOCHS, TRAINED, 0)
    settings = (
        f"MiniLM, its last {TRAINED} of 6 layers trained on {MANY} texts; AdamW {RATE:g}, epochs: {EPOCHS}, 32 texts "
        "of up to 64 tokens a step, the rate not tuned"
    )
    yield Score(DATA, "accuracy, %", score, "naive Bayes", baseline, taken[0], 0, settings)
