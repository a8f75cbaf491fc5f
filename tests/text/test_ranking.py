"""BM25 against its formula, and what it finds."""

from __future__ import annotations

from math import log

import pytest

from llmlab.text import BM25

TEXTS = ["The cat sat on the mat.", "A dog sat.", "Cats and dogs, dogs and cats and a dog.", "Nothing here"]


def test_bm25_is_its_formula():
    lengths, k, b = [6, 3, 9, 2], 1.2, 0.75
    mean = sum(lengths) / 4

    def share(n, with_word, length):
        return log(1 + (4 - with_word + 0.5) / (with_word + 0.5)) * n * 2.2 / (n + k * (1 - b + b * length / mean))

    dog = [0, share(1, 2, 3), share(1, 2, 9), 0]
    assert BM25(TEXTS).scores("Dog!") == pytest.approx(dog)
    both = [dog[0] + share(1, 2, 6), dog[1] + share(1, 2, 3), dog[2], 0]
    assert BM25(TEXTS).scores("a dog sat"[2:]) == pytest.approx(both)
    twice = [2 * score for score in dog]
    assert BM25(TEXTS).scores("dog dog") == pytest.approx(twice)


def test_the_best_come_first_and_ties_in_order():
    index = BM25(TEXTS)
    assert index.search("dogs", 1) == [2] and index.search("dog", 2) == [1, 2]  # the shorter text counts more
    assert index.search("zebra", 9) == [0, 1, 2, 3]


def test_a_single_string_no_text_and_settings_outside_their_range_are_refused():
    with pytest.raises(ValueError, match="documents must be a list, got one string"):
        BM25("one text")
    with pytest.raises(ValueError, match="texts to search in, got none"):
        BM25([])
    with pytest.raises(ValueError, match="b"):
        BM25(TEXTS, b=2)
    with pytest.raises(ValueError, match="question as a string; got 3"):
        BM25(TEXTS).search(3)
